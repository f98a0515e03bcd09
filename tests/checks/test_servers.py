"""E010, W004, W005 asked of a real MariaDB; the answers of servers that cannot be had here are in test_databases."""

import pytest
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency import Policy
from django_idempotency.checks import stores as checks
from tests.app.serving import VENDOR, without_table
from tests.checks.views import Protected

TABLE = "django_idempotency_record"
ENGINES = {"mariadb": ["InnoDB", "Aria", "MyISAM"]}.get(VENDOR, [])
pytestmark = pytest.mark.django_db(transaction=True)


def asked() -> list[str]:
    return [message.id.rpartition(".")[2] for message in checks.check_databases(databases=["default"])]


@pytest.fixture
def alter():
    """Change the table, and change it back."""

    def alter(database: BaseDatabaseWrapper, change: str) -> None:
        with database.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {TABLE} {change}")

    yield alter
    if ENGINES:
        alter(connection, f"ENGINE = {ENGINES[0]}")


def test_the_database_of_this_run_is_silent():
    """Migrated, with transactions, and large enough for what is stored by default."""
    assert asked() == []


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_a_table_without_transactions_is_E010(alter, vendor, engine):
    """What it holds would outlive a rollback."""
    if vendor == "mysql" and engine == "Aria":
        pytest.skip("Aria is MariaDB's")
    alter(connection, f"ENGINE = {engine}")

    assert asked() == ["E010"]


def test_a_missing_table_is_W004(alter):
    """On every database: the app is there, its migration was not run."""
    with without_table():
        assert asked() == ["W004"]


def test_a_body_that_the_server_does_not_take_is_W005(check):
    """MariaDB's max_allowed_packet is asked for; the others take what there is."""
    view = type("Large", (Protected,), {"idempotency": Policy(max_body=1024**3)})
    check(view.as_view())

    assert asked() == (["W005"] if VENDOR == "mariadb" else [])
