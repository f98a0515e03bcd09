"""Whether a handler committed its transaction is asked of the claim's row, however it was done."""

import contextlib
import logging

import pytest
from django.db import Error, connection

from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment, Unique
from tests.app.serving import VENDOR, drf, hearing, post
from tests.app.views import answer

pytestmark = pytest.mark.django_db(transaction=True)


def raw_execute(statement):
    """Past Django's cursor, which nothing wraps."""

    def run(raw):
        cursor = raw.cursor()
        cursor.execute(statement)
        cursor.close()

    return f"the driver's {statement}", run


def driver(name):
    """A method of the driver's connection."""
    return name, lambda raw: getattr(raw, name)()


def executescript(statements):
    return f"executescript {statements}", lambda raw: raw.executescript(statements)


def block_of_the_driver(raw):
    with raw:
        pass


EVERYWHERE = (
    "COMMIT",
    "/* done */ COMMIT",
    "-- done\nCOMMIT",
    "ROLLBACK",
    "/* undone */ ROLLBACK",
    ["COMMIT", "BEGIN"],
    ["ROLLBACK", "BEGIN"],
    ["SAVEPOINT s", "RELEASE SAVEPOINT s"],
    ["SAVEPOINT s", "ROLLBACK TO SAVEPOINT s"],
    "/* made */ CREATE TABLE made_by_a_handler (id integer)",
    driver("commit"),
    driver("rollback"),
    raw_execute("COMMIT"),
    raw_execute("ROLLBACK"),
)
CASES = {
    "postgresql": (
        "END",
        "ABORT",
        "SELECT 1; COMMIT",
        "COMMIT; BEGIN; SELECT 1",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "END; SELECT 1",
        "PREPARE TRANSACTION 'by_a_handler'",
        "DO $$ BEGIN COMMIT; END $$",
        "VACUUM",
        "TRUNCATE app_unique",
        "LOCK TABLE app_unique",
    ),
    "mariadb": (
        "/*!40101 COMMIT */",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "BEGIN",
        "START TRANSACTION",
        "SET autocommit = 1",
        "LOCK TABLES app_unique WRITE",
        "/* emptied */ TRUNCATE app_unique",
        "/* looked at */ ANALYZE TABLE app_unique",
        "ALTER TABLE app_unique COMMENT 'altered'",
        "CREATE TEMPORARY TABLE of_a_handler (id integer)",
        "BEGIN NOT ATOMIC COMMIT; END",
        ["PREPARE s FROM 'COMMIT'", "EXECUTE s"],
        "FLUSH TABLES",
        ("autocommit(True)", lambda raw: raw.autocommit(True)),
        raw_execute("CREATE TABLE made_by_a_handler (id integer)"),
    ),
    "sqlite": (
        "END",
        "END TRANSACTION",
        "VACUUM",
        "INSERT OR ROLLBACK INTO app_unique (name) VALUES ('taken'), ('taken')",
        "PRAGMA user_version = 1",
        executescript("SELECT 1;"),
        executescript("ROLLBACK;"),
        executescript("COMMIT; BEGIN;"),
        ("a block of the driver's", block_of_the_driver),
    ),
}
CASES["mysql"] = tuple(
    case for case in CASES["mariadb"] if case not in ("BEGIN NOT ATOMIC COMMIT; END", "/*!40101 COMMIT */")
)


@pytest.fixture
def heard():
    """The signals of outcomes that were sent."""
    with hearing("executed", "forgotten", "unsettled") as heard:
        yield heard


@pytest.fixture
def tidy():
    yield
    connection.close()
    with connection.cursor() as cursor, contextlib.suppress(Error):
        cursor.execute("DROP TABLE IF EXISTS made_by_a_handler")


def spelt(case):
    return case[0] if isinstance(case, tuple) else "; ".join(case) if isinstance(case, list) else case


@pytest.mark.parametrize("goes_on", [False, True], ids=["then answers", "then goes on"])
@pytest.mark.parametrize("status", [201, 400])
@pytest.mark.parametrize("case", [*EVERYWHERE, *CASES[VENDOR]], ids=spelt)
def test_what_is_announced_is_so(serve, api, heard, tidy, caplog, atomic_requests, case, status, goes_on):
    """After each statement that may end a transaction: work and claim share one fate, and the log tells which."""

    def handler(request):
        Payment.objects.create(amount=10)
        with contextlib.suppress(Exception):  # the mistake of going on after an error is part of the question
            if isinstance(case, tuple):
                case[1](connection.connection)
            else:
                with connection.cursor() as cursor:
                    for statement in [case] if isinstance(case, str) else case:
                        cursor.execute(statement)
        if goes_on:
            with contextlib.suppress(Exception):
                Unique.objects.create(name="later")
        return answer(request, {}, status)

    serve(drf(handler))
    Unique.objects.create(name="taken")

    with caplog.at_level(logging.INFO, "django_idempotency"):
        response = post(api)

    connection.close()  # whatever the handler made of it
    committed = Payment.objects.exists()
    assert committed == IdempotencyRecord.objects.exists()
    unsettled = IdempotencyRecord.objects.unsettled().exists()
    if not committed:
        assert [name for name, _ in heard] == ["forgotten"]
        assert not Unique.objects.filter(name="later").exists()
        assert response.status_code == (500 if status == 201 else status)
    elif unsettled:
        assert [name for name, _ in heard] == ["unsettled"]
        assert response.status_code == (500 if status == 201 else status)
        assert "rolled back" not in caplog.text
    else:
        assert [name for name, _ in heard] == ["executed"]
        assert response.status_code == 201
