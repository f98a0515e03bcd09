"""E006, E009, E010, W001, W004, W005, W007, W027: the databases, by their settings and by what their servers say."""

from contextlib import contextmanager

import pytest
from django.core.management import call_command
from django.db import OperationalError, connections

from django_idempotency import Policy, once
from django_idempotency.checks import stores as checks
from django_idempotency.stores.database import checks as of_database
from tests.checks.views import CreatePayment, Protected
from tests.ids import spelt


def asked(*databases):
    """The messages of `manage.py check --database ...`, each of which has its remedy."""
    messages = checks.check_databases(databases=databases or ["default"])
    assert all(message.hint for message in messages)
    return messages


@pytest.fixture
def other(check):
    """The messages about the database of a view with `using="other"`, which is SQLite's in every run."""
    view = type("Other", (Protected,), {"idempotency": Policy(using="other")})
    return lambda: check(view.as_view())


@pytest.fixture
def server(monkeypatch):
    """Put words into the mouth of the database server behind *alias*."""

    def make(answers, vendor, alias="default", tables=("django_idempotency_record", "django_migrations")):
        connection = connections[alias]

        class Cursor:
            def execute(self, sql, params=()):
                self.rows = next(rows for start, rows in answers.items() if sql.startswith(start))

            def fetchone(self):
                return self.rows[0] if self.rows else None

            def fetchall(self):
                return self.rows

        @contextmanager
        def cursor():
            yield Cursor()

        monkeypatch.setattr(connection, "vendor", vendor)
        monkeypatch.setattr(connection, "cursor", cursor)
        monkeypatch.setattr(connection, "ensure_connection", lambda: None)
        monkeypatch.setattr(connection.introspection, "table_names", lambda cursor: list(tables))

    return make


MARIADB = {
    "SELECT VERSION()": [("10.11.19-MariaDB",)],
    "SHOW GLOBAL": [("max_allowed_packet", "16777216"), ("wsrep_on", "OFF")],
    "SELECT engine": [("InnoDB",)],
}


# --- by their settings ---


@pytest.mark.parametrize(
    ("vendor", "name"), [("oracle", "Oracle"), ("microsoft", "SQL Server"), ("cockroachdb", "CockroachDB")]
)
def test_E006(check, monkeypatch, vendor, name):
    """An engine that the store has no statements for is an error at start-up, not a syntax error at a request."""
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    monkeypatch.setattr(connections["default"], "display_name", name)

    [message] = check(Protected.as_view())

    assert message.id == "django_idempotency.E006"
    assert f"does not support {name} (database 'default')" in message.msg
    assert asked() == []  # no server of this kind is asked


def test_E006_for_a_view_with_using(other, monkeypatch):
    """The databases that views name are looked at as well."""
    monkeypatch.setattr(connections["other"], "vendor", "oracle")

    [message] = other()

    assert message.id == "django_idempotency.E006"
    assert "'other'" in message.msg


def test_E006_for_an_event_with_using(check, monkeypatch):
    """And those that functions of `@once` name."""
    once("invoice.paid", key=str, using="other")(lambda event: None)
    monkeypatch.setattr(connections["other"], "vendor", "oracle")

    assert [message.id for message in check(Protected.as_view())] == ["django_idempotency.E006"]


@pytest.mark.parametrize(
    ("answers", "vendor", "name"),
    [
        ({"SELECT version()": [("CockroachDB CCL v24.1.0", False)]}, "postgresql", "CockroachDB"),
        ({"SELECT version()": [("PostgreSQL 15.2-YB-2025.1.2.0-b0 on x86_64", False)]}, "postgresql", "YugabyteDB"),
        ({"SELECT VERSION()": [("8.0.43-Vitess",)]}, "mysql", "Vitess"),
    ],
    ids=["CockroachDB", "YugabyteDB", "Vitess"],
)
def test_E006_behind_a_driver_of_another(server, answers, vendor, name):
    """Who speaks PostgreSQL's or MySQL's protocol need not have its locks."""
    server(answers, vendor)

    [message] = asked()

    assert message.id == "django_idempotency.E006"
    assert name in message.msg


def test_W027(server):
    """TiDB holds the law by its primary key, as far as can be read; nobody has run it."""
    server({"SELECT VERSION()": [("8.0.11-TiDB-v8.5.1",)]}, "mysql")

    [message] = asked()

    assert message.id == "django_idempotency.W027"
    assert "TiDB" in message.msg


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, True),
        ({"transaction_mode": None}, True),
        ({"transaction_mode": "DEFERRED"}, True),
        ({"transaction_mode": "IMMEDIATE"}, False),
        ({"transaction_mode": "immediate"}, False),
        ({"transaction_mode": "EXCLUSIVE"}, False),
    ],
    ids=spelt,
)
def test_W001(other, monkeypatch, options, warned):
    """SQLite's default begins to write in the middle of a transaction, which fails under load."""
    monkeypatch.setitem(connections["other"].settings_dict, "OPTIONS", options)

    messages = other()

    assert [message.id for message in messages] == (["django_idempotency.W001"] if warned else [])
    assert all("'other'" in message.msg and "['other']['OPTIONS']" in message.hint for message in messages)


def test_only_databases_that_hold_records_are_looked_at(check, monkeypatch):
    """Another database of the project may be whatever it is."""
    monkeypatch.setitem(connections["other"].settings_dict, "OPTIONS", {})

    assert check(Protected.as_view()) == []


def test_a_store_that_nothing_uses_is_not_looked_at(ids, settings, monkeypatch):
    """A project that keeps all its records elsewhere may have any database."""
    memory = {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}
    settings.IDEMPOTENCY = {"STORE": "mine", "STORES": {"mine": memory}}
    monkeypatch.setattr(connections["default"], "vendor", "oracle")

    assert "E006" not in ids(Protected.as_view())


def test_a_store_derived_from_the_database_store_is_looked_at(ids, settings, monkeypatch):
    """It keeps its records in the same databases."""
    settings.IDEMPOTENCY = {"STORE": "mine", "STORES": {"mine": {"BACKEND": "tests.unit.test_conf.CustomStore"}}}
    monkeypatch.setattr(connections["default"], "vendor", "oracle")

    assert "E006" in ids(Protected.as_view())


# --- by what their servers say ---


def test_without_a_database_named_no_server_is_asked(monkeypatch):
    """As Django has it: `manage.py check` runs before there is a database."""
    monkeypatch.setattr(connections["default"], "ensure_connection", None)

    assert checks.check_databases(databases=None) == []
    assert checks.check_databases(databases=["other"]) == []


@pytest.mark.django_db
def test_the_command_asks(urls, capsys):
    """`manage.py check --database default` from end to end."""
    urls(CreatePayment.as_view())

    call_command("check", databases=["default"])


@pytest.mark.django_db
def test_W004(monkeypatch):
    """The table is missing: a warning, since an error would stop `migrate` itself."""
    monkeypatch.setattr(of_database, "TABLE", "not_migrated_yet")
    migrated = connections["default"].introspection.table_names()
    monkeypatch.setattr(
        connections["default"].introspection, "table_names", lambda cursor: [*migrated, "django_migrations"]
    )

    [message] = asked()

    assert message.id == "django_idempotency.W004"
    assert "'not_migrated_yet' is missing in database 'default'" in message.msg
    assert "migrate django_idempotency --database default" in message.hint


def test_W004_where_a_router_keeps_the_table_out(server, settings):
    """Then `migrate` does not help."""
    settings.DATABASE_ROUTERS = [type("Nowhere", (), {"allow_migrate": lambda self, db, app_label, **hints: False})()]
    server({"SELECT version()": [("PostgreSQL 18.1", False)]}, "postgresql", tables=["django_migrations"])

    [message] = asked()

    assert message.id == "django_idempotency.W004"
    assert "DATABASE_ROUTERS" in message.hint


def test_a_database_that_was_never_migrated_is_no_W004(server):
    """Before a project's first `migrate` everything is missing."""
    server({"SELECT version()": [("PostgreSQL 18.1", False)]}, "postgresql", tables=[])

    assert asked() == []


def test_a_right_mysql_is_silent(server):
    """The answers that the other tests change one by one."""
    server(MARIADB, "mysql")

    assert asked() == []


def test_E009(server):
    """The nodes of a Galera cluster do not see each other's locks."""
    server(MARIADB | {"SHOW GLOBAL": [("max_allowed_packet", "16777216"), ("wsrep_on", "ON")]}, "mysql")

    [message] = asked()

    assert message.id == "django_idempotency.E009"
    assert "'default' is a Galera cluster" in message.msg


def test_E010(server):
    """A table that knows no transactions keeps what was rolled back."""
    server(MARIADB | {"SELECT engine": [("MyISAM",)]}, "mysql")

    [message] = asked()

    assert message.id == "django_idempotency.E010"
    assert "MyISAM" in message.msg
    assert "ENGINE = InnoDB" in message.hint


@pytest.mark.parametrize(("packet", "warned"), [(2 * 1024 * 1024, True), (2 * 1024 * 1024 + 65536, False)])
def test_W005(server, packet, warned):
    """A response of `max_body` must fit into one statement, escaped."""
    server(MARIADB | {"SHOW GLOBAL": [("max_allowed_packet", str(packet))]}, "mysql")

    messages = asked()

    assert [message.id for message in messages] == (["django_idempotency.W005"] if warned else [])
    assert all(str(packet) in message.msg and "`max_body`" in message.hint for message in messages)


def test_W007(monkeypatch):
    """A server that is away is said to be away, and the command goes on."""

    def refuse():
        raise OperationalError("connection refused")

    monkeypatch.setattr(connections["default"], "ensure_connection", refuse)

    [message] = asked()

    assert message.id == "django_idempotency.W007"
    assert "'default' does not answer" in message.msg
    assert "connection refused" in message.msg
