"""Engines that take PostgreSQL's or MySQL's protocol: known by what they say, refused before a handler runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection

from django_idempotency import once
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores import stores
from django_idempotency.stores.database.dialects import dialect_for
from django_idempotency.stores.database.engines import behind_mysql, behind_postgresql
from tests.app.models import Payment
from tests.app.serving import VENDOR

GCC = "on x86_64-pc-linux-gnu, compiled by gcc (Debian 12.2.0-14) 12.2.0, 64-bit"

# What `version()` returns, as the engines' documentation or a live server shows it: docs/reference/engines.md.
POSTGRESQL = {
    f"PostgreSQL 15.20 (Debian 15.20-0+deb12u1) {GCC}": None,
    f"PostgreSQL 18.1 {GCC}": None,
    "PostgreSQL 16.2 on x86_64-pc-linux-gnu, compiled by gcc, a 5f6ca8d6d8 (Aurora)": None,
    "PostgreSQL 11.2-YB-2.18.0.1-b0 on x86_64-pc-linux-gnu, compiled by clang version 15.0.3": "YugabyteDB",
    "PostgreSQL 15.2-YB-2025.1.2.0-b0 on x86_64-pc-linux-gnu": "YugabyteDB",
    f"PostgreSQL 9.4.26 (Greenplum Database 6.25.3 build commit:367edc6b4df) {GCC}": "Greenplum",
    f"PostgreSQL 14.4 (Cloudberry Database 1.5.4 build commit:abc) {GCC}": "Cloudberry",
    "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2 20041017 (Red Hat 3.4.2-6.fc3), Redshift"
    " 1.0.12103": "Amazon Redshift",
    "CockroachDB CCL v24.3.5 (x86_64-pc-linux-gnu, built 2025/02/03 17:28:15, go1.22.8)": (
        "CockroachDB CCL v24.3.5 (x86_64-pc-linux-gnu, built 2025/02/03 17:28:15, go1.22.8)"
    ),
}
MYSQL = {
    "9.7.4": None,
    "8.4.6": None,
    "8.0.36-0ubuntu0.22.04.1": None,
    "10.11.19-MariaDB-0+deb12u1": None,
    "8.0.11-TiDB-v8.5.1": "TiDB",
    "8.0.43-Vitess": "Vitess",
    "5.7.9-vitess-10.0.0": "Vitess",
    "5.7.25-OceanBase_CE-v4.4.2.1": "OceanBase",
}


@pytest.mark.parametrize(("version", "name"), POSTGRESQL.items())
def test_an_engine_behind_postgresqls_driver(version, name):
    """Its first word is not enough."""
    engine = behind_postgresql(version, has_dsql_roles=False)

    assert (engine and engine.name) == name
    assert engine is None or engine.is_refused


def test_aurora_dsql():
    """It says the same as PostgreSQL, and has a table that only it has."""
    engine = behind_postgresql("PostgreSQL 16", has_dsql_roles=True)

    assert engine.name == "Aurora DSQL"
    assert engine.is_refused


@pytest.mark.parametrize(("version", "name"), MYSQL.items())
def test_an_engine_behind_mysqls_driver(version, name):
    """All say a version of MySQL, for clients that look at it; TiDB alone is not refused."""
    engine = behind_mysql(version)

    assert (engine and engine.name) == name
    assert engine is None or engine.is_refused == (name != "TiDB")


# --- at the first claim, by a real server that says so ---


@once("engines.pay", key=lambda event: event)
def pay(event: str) -> int:
    return Payment.objects.create(amount=5).pk


@pytest.fixture
def unknown(monkeypatch) -> None:
    """This process has not asked its server yet."""
    monkeypatch.setattr(stores["default"], "_dialects", {})


@contextmanager
def objects(create: str, drop: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(create)
    try:
        yield
    finally:
        connection.close()  # with its search_path
        with connection.cursor() as cursor:
            cursor.execute(drop)


SAYS_YUGABYTEDB = (
    "CREATE SCHEMA test_says; CREATE FUNCTION test_says.version() RETURNS text LANGUAGE sql AS"
    " $$ SELECT 'PostgreSQL 15.2-YB-2025.1.2.0-b0 on x86_64-pc-linux-gnu' $$;"
    " SET search_path = test_says, public, pg_catalog"
)
IS_DSQL = "CREATE SCHEMA sys; CREATE TABLE sys.iam_pg_role_mappings (arn text)"


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(VENDOR != "postgresql", reason="only PostgreSQL lets a schema answer in the place of the server")
@pytest.mark.parametrize(
    ("create", "schema", "name"),
    [(SAYS_YUGABYTEDB, "test_says", "YugabyteDB"), (IS_DSQL, "sys", "Aurora DSQL")],
    ids=["YugabyteDB", "Aurora DSQL"],
)
def test_the_first_claim_is_refused(unknown, create, schema, name):
    """Nothing runs, and the error says what to do; the next claim asks again."""
    with objects(create, f"DROP SCHEMA {schema} CASCADE"):
        for _ in range(2):
            with pytest.raises(PolicyError, match=rf"does not support {name} \(database 'default'\).*`using`"):
                pay("one")
        assert not Payment.objects.exists()

    assert pay("one")


@pytest.mark.django_db(transaction=True)
def test_this_server_is_what_its_driver_takes_it_for(unknown, caplog):
    """It is asked once, and nothing is said."""
    assert dialect_for(connection)
    pay("two")

    assert "never run" not in caplog.text
