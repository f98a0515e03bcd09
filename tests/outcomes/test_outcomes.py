"""
What becomes of an execution: the rows of the contract's table of outcomes, each with the cases that it covers.

A case is one handler. It is called twice with one key, and the test compares what the first caller got, what is in the
database, and what the retry got.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any
from unittest import mock

import pytest
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, IntegrityError, OperationalError, connection, connections, transaction
from django.http import FileResponse, Http404, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.template import TemplateDoesNotExist, engines
from django.template.response import TemplateResponse
from rest_framework.exceptions import ValidationError

from django_idempotency.exceptions import CommittedEarly, TransactionBroken, UnstorableResponse
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Child, Payment, Unique
from tests.app.serving import EDGES, VENDOR, hearing, is_replay, post
from tests.app.views import answer

pytestmark = pytest.mark.django_db(transaction=True)

# --- the table ---

STORED = "returns a response that should_store accepts"
REFUSAL = "returns a refusal"
RAISES = "raises"
FORGOTTEN = "returns 5xx, or should_store says no, or set_rollback(True) was called"
UNSTORABLE = "returns what cannot be stored"
KILLED = "is killed, or its COMMIT fails"  # by SIGKILL: tests/proof/test_kills.py
LOST = "its COMMIT succeeds, and the answer is lost; or the reply to COMMIT is lost"
HOOK = "an on_commit hook raises"
BROKEN = "breaks the transaction and goes on"
COMMITS = "commits by itself"
DURABLE = "uses atomic(durable=True)"
COOKIES = "changes the session or sets cookies"

ROWS = (STORED, REFUSAL, RAISES, FORGOTTEN, UNSTORABLE, KILLED, LOST, HOOK, BROKEN, COMMITS, DURABLE, COOKIES)

REPLAYED, RUNS_AGAIN, OUTCOME_UNKNOWN = "is replayed", "runs again", "gets 409 outcome-unknown"
VENDORS = ("postgresql", "mariadb", "sqlite")
DIED = None  # the status of a caller that got no answer


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    row: str
    variant: str
    handler: Callable[[Any], Any]  # called after it has written a payment
    first: int | None  # the status that the first caller gets
    retry: str = RUNS_AGAIN
    second: int | None = None  # the status of the retry, where it is not the first's
    error: type[BaseException] | None = None  # what Django reports with the 500
    message: str = ""  # words of that error or of its notes
    warning: str = ""  # words of a promised log line
    options: dict[str, Any] = field(default_factory=dict)
    edges: tuple[str, ...] = tuple(EDGES)
    vendors: tuple[str, ...] = VENDORS
    fault: Callable[[], Any] = nullcontext  # the context of the first request


def returns(status: int, data: Any = None) -> Callable[[Any], Any]:
    return lambda request: answer(request, {"done": True} if data is None else data, status)


def does(act: Callable[[], object], status: int = 201) -> Callable[[Any], Any]:
    """A handler that does something and answers as if all were well."""

    def handler(request: Any) -> Any:
        act()
        return answer(request, {"done": True}, status)

    return handler


def raises(error: BaseException | type[BaseException]) -> Callable[[Any], Any]:
    def handler(request: Any) -> Any:
        raise error

    return handler


def swallowing(act: Callable[[], object], error: type[Exception] = DatabaseError) -> Callable[[], object]:
    def swallow() -> None:
        try:
            act()
        except error:
            pass  # the mistake that this is about

    return swallow


def sql(*statements: str) -> Callable[[], None]:
    def run() -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return run


# --- stored ---


def file_of(size: int) -> Callable[[Any], FileResponse]:
    return lambda request: FileResponse(BytesIO(b"x" * size), filename="receipt.txt")


def template(text: str) -> Callable[[Any], TemplateResponse]:
    return lambda request: TemplateResponse(request, engines["django"].from_string(text), {"amount": 10}, status=201)


stored = partial(Case, row=STORED, retry=REPLAYED)
STORED_CASES = (
    stored(variant="200", handler=returns(200), first=200),
    stored(variant="201", handler=returns(201), first=201),
    stored(variant="202 of bytes", handler=lambda request: HttpResponse(b"\0\xff", status=202), first=202),
    stored(variant="204 without a body", handler=lambda request: HttpResponse(status=204), first=204),
    stored(variant="redirect", handler=lambda request: HttpResponseRedirect("/receipt/"), first=302),
    stored(
        variant="redirect to LOGIN_URL, as a sign-up answers",
        handler=lambda request: HttpResponseRedirect("/accounts/login/"),
        first=302,
    ),
    stored(variant="402, a decline", handler=returns(402, {"code": "declined"}), first=402),
    stored(variant="404, returned", handler=returns(404), first=404),
    stored(variant="410", handler=returns(410), first=410),
    stored(variant="template", handler=template("{{ amount }}"), first=201, edges=("plain",)),
    stored(variant="file within max_body", handler=file_of(1000), first=200),
    stored(
        variant="422 that should_store accepts",
        handler=returns(422),
        options={"should_store": lambda response: response.status_code == 422},
        first=422,
    ),
)

# --- refused ---


def break_a_constraint() -> None:
    for _ in range(2):
        Unique.objects.create(name="one")


def close_connection() -> None:
    connection.close()


refusal = partial(Case, row=REFUSAL, first=400, warning="had written before it answered with status 4")
REFUSAL_CASES = (
    *(
        refusal(variant=str(status), handler=returns(status), first=status)
        for status in (400, 401, 403, 405, 409, 412, 422, 429)
    ),
    refusal(variant="400 after a swallowed database error", handler=does(swallowing(break_a_constraint), 400)),
    refusal(variant="400 after the connection was closed", handler=does(close_connection, 400)),
)

# --- raises ---

raised = partial(Case, row=RAISES)
RAISES_CASES = (
    raised(variant="ValueError", handler=raises(ValueError), first=500, error=ValueError),
    raised(variant="Http404", handler=raises(Http404), first=404),
    raised(variant="PermissionDenied", handler=raises(PermissionDenied), first=403),
    raised(variant="ValidationError", handler=raises(ValidationError), first=400, edges=("drf",)),
    raised(variant="IntegrityError", handler=does(break_a_constraint), first=500, error=IntegrityError),
    raised(variant="data that cannot be rendered", handler=returns(201, object()), first=500, error=TypeError),
    raised(
        variant="template that cannot be rendered",
        handler=template("{% include 'absent.html' %}"),
        first=500,
        error=TemplateDoesNotExist,
        edges=("plain",),
    ),
)

# --- forgotten ---


def request_rollback() -> None:
    transaction.set_rollback(True)


def request_rollback_after_a_failed_block() -> None:
    try:
        with transaction.atomic():
            break_a_constraint()
    except IntegrityError:
        pass  # tried, and it was there: the block is rolled back, and its error is over
    transaction.set_rollback(True)


forgotten = partial(Case, row=FORGOTTEN)
FORGOTTEN_CASES = (
    forgotten(variant="500", handler=returns(500), first=500),
    forgotten(variant="503", handler=returns(503), first=503),
    forgotten(
        variant="should_store says no",
        handler=returns(201),
        options={"should_store": lambda response: False},
        first=201,
        warning="the option `should_store` does not accept",
    ),
    forgotten(variant="set_rollback", handler=does(request_rollback), first=201, warning="called `transaction.set"),
    forgotten(
        variant="set_rollback after a block that failed",
        handler=does(request_rollback_after_a_failed_block),
        first=201,
        warning="called `transaction.set_rollback(True)`",
    ),
)

# --- not to be stored ---

unstorable = partial(Case, row=UNSTORABLE, first=500, error=UnstorableResponse)
UNSTORABLE_CASES = (
    unstorable(
        variant="streaming",
        handler=lambda request: StreamingHttpResponse([b"a", b"b"]),
        message="Return an HttpResponse",
    ),
    unstorable(
        variant="over max_body",
        handler=returns(201, "x" * 2000),
        options={"max_body": 1000},
        message="Raise `max_body`",
    ),
    unstorable(
        variant="file over max_body",
        handler=file_of(2000),
        options={"max_body": 1000},
        message="Raise `max_body`",
    ),
    unstorable(variant="None", handler=lambda request: None, message="must return an HttpResponse, not NoneType"),
    unstorable(variant="a dict", handler=lambda request: {}, message="must return an HttpResponse, not dict"),
)

# --- killed, or lost ---


@contextmanager
def commit_fails() -> Iterator[None]:
    """The server never gets the COMMIT."""

    def fail() -> None:
        raise OperationalError("the connection was lost")

    def fail_folded(execute: Any, sql: Any, *args: Any) -> Any:
        return fail() if sql.endswith("; COMMIT") else execute(sql, *args)

    connection = connections["default"]
    with mock.patch.object(connection, "_commit", fail), connection.execute_wrapper(fail_folded):
        yield


@contextmanager
def reply_to_commit_is_lost() -> Iterator[None]:
    """The server commits, and nobody hears of it."""
    commit = connections["default"]._commit

    def lose() -> None:
        commit()
        raise OperationalError("the connection was lost")

    def lose_folded(execute: Any, sql: Any, *args: Any) -> Any:
        result = execute(sql, *args)
        if sql.endswith("; COMMIT"):
            raise OperationalError("the connection was lost")
        return result

    connection = connections["default"]
    with mock.patch.object(connection, "_commit", lose), connection.execute_wrapper(lose_folded):
        yield


@contextmanager
def answer_is_lost() -> Iterator[None]:
    """Something outside of the view fails when the view's work is done."""

    def fail(self: Any, request: Any, response: Any) -> None:
        raise ConnectionError("the answer was lost")

    with mock.patch.object(SessionMiddleware, "process_response", fail):
        yield


killed = partial(Case, row=KILLED)
KILLED_CASES = (
    killed(variant="SystemExit, as of gunicorn --timeout", handler=raises(SystemExit), first=DIED, error=SystemExit),
    killed(
        variant="COMMIT fails",
        handler=returns(201),
        first=500,
        error=OperationalError,
        second=201,
        fault=commit_fails,
    ),
    killed(
        variant="deferred constraint",
        handler=does(lambda: Child.objects.create(payment_id=0)),
        first=500,
        error=IntegrityError,
        vendors=("postgresql", "sqlite"),  # InnoDB defers nothing
    ),
)

lost = partial(Case, row=LOST, handler=returns(201), first=500, retry=REPLAYED, second=201)
LOST_CASES = (
    lost(variant="the reply to COMMIT", error=OperationalError, fault=reply_to_commit_is_lost),
    lost(variant="the answer", error=ConnectionError, fault=answer_is_lost),
)

# --- hooks ---


def fail_after_commit() -> None:
    raise LookupError("the hook failed")


hook = partial(Case, row=HOOK, retry=REPLAYED)
HOOK_CASES = (
    hook(
        variant="it raises",
        handler=does(lambda: transaction.on_commit(fail_after_commit)),
        first=500,
        error=LookupError,
        second=201,
    ),
    hook(
        variant="it is robust",
        handler=does(lambda: transaction.on_commit(fail_after_commit, robust=True)),
        first=201,
    ),
)

# --- broken transactions ---


def break_a_constraint_in_bulk() -> None:
    # Of more than one batch, which Django puts into a block without a savepoint.
    Unique.objects.bulk_create([Unique(name="one"), Unique(name="one")], batch_size=1)


def fail_without_a_savepoint() -> None:
    with transaction.atomic(savepoint=False):
        raise ValueError


def roll_back_and_go_on() -> None:
    sql("ROLLBACK")()
    Unique.objects.create(name="later")


def find_no_row() -> None:
    Payment(pk=1_000_001, amount=1).save(force_update=True)


broken = partial(Case, row=BROKEN, first=500, error=TransactionBroken)
BROKEN_CASES = (
    broken(
        variant="swallows an IntegrityError of the ORM",
        handler=does(swallowing(break_a_constraint)),
        message="swallowed a database error",
    ),
    broken(
        variant="swallows an IntegrityError of bulk_create",
        handler=does(swallowing(break_a_constraint_in_bulk)),
        message="swallowed",
    ),
    broken(
        variant="swallows an error of a block without a savepoint",
        handler=does(swallowing(fail_without_a_savepoint, ValueError)),
        message="swallowed",
    ),
    broken(
        variant="swallows an error of a raw cursor",
        handler=does(swallowing(sql("SELECT nothing FROM nowhere"))),
        message="A database error was swallowed",
        vendors=("postgresql",),  # the others undo the failed statement alone
    ),
    broken(
        variant="swallows that a row is gone, and answers 201",
        handler=does(swallowing(find_no_row)),
        message="swallowed a database error",
    ),
    *(
        broken(
            variant=f"swallows that a row is gone, and answers {status}",
            handler=does(swallowing(find_no_row), status),
            first=status,
            error=None,
            warning="swallowed a database error",
        )
        for status in (404, 410)
    ),
    broken(
        variant="swallows that a row is gone, and answers 402, which says that a decline was written down",
        handler=does(swallowing(find_no_row), 402),
        message="swallowed a database error",
    ),
    broken(
        variant="closes the connection",
        handler=does(close_connection),
        message="closed the database connection",
    ),
    broken(variant="a raw ROLLBACK", handler=does(sql("ROLLBACK")), message="rolled back"),
    broken(
        variant="a raw ROLLBACK, and goes on",
        handler=does(swallowing(roll_back_and_go_on)),
        message="rolled back",
    ),
)

# --- commits by itself ---

commits = partial(
    Case,
    row=COMMITS,
    first=500,
    error=CommittedEarly,
    warning="its handler ended the transaction by itself",
    retry=OUTCOME_UNKNOWN,
    second=409,
)
COMMITS_CASES = (
    commits(variant="a raw COMMIT", handler=does(sql("COMMIT")), message="a raw COMMIT"),
    commits(
        variant="a raw COMMIT, and goes on",
        handler=does(lambda: (sql("COMMIT")(), Unique.objects.create(name="later"))),
        message="a raw COMMIT",
    ),
    commits(
        variant="DDL",
        handler=does(sql("CREATE TABLE IF NOT EXISTS made_by_a_handler (id integer)")),
        message="DDL on MariaDB",
        vendors=("mariadb",),
    ),
    commits(
        variant="executescript",
        handler=does(lambda: connection.connection.executescript("SELECT 1;")),
        message="executescript() on SQLite",
        vendors=("sqlite",),
    ),
)

# --- the rest ---


def pay_durably() -> None:
    with transaction.atomic(durable=True):
        Payment.objects.create(amount=1)


DURABLE_CASES = (
    Case(
        row=DURABLE,
        variant="inside the handler",
        handler=does(pay_durably),
        first=500,
        error=RuntimeError,
        message="Leave durable=True out",
    ),
)


def with_cookies(request: Any) -> Any:
    request.session["seen"] = True
    response = answer(request, {"done": True})
    response.set_cookie("basket", "1")
    return response


COOKIES_CASES = (
    Case(
        row=COOKIES,
        variant="both",
        handler=with_cookies,
        first=201,
        retry=REPLAYED,
        warning="answers with cookies",
    ),
)

CASES = [
    case
    for case in (
        *STORED_CASES, *REFUSAL_CASES, *RAISES_CASES, *FORGOTTEN_CASES, *UNSTORABLE_CASES, *KILLED_CASES, *LOST_CASES,
        *HOOK_CASES, *BROKEN_CASES, *COMMITS_CASES, *DURABLE_CASES, *COOKIES_CASES,
    )
    if VENDOR in case.vendors
]  # fmt: skip


# --- the tests ---


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_case_for_each_edge(row):
    """No outcome is promised that no case proves, on the database at hand, for DRF views and for plain ones."""
    assert {edge for case in CASES if case.row == row for edge in case.edges} == set(EDGES)


@pytest.mark.parametrize(
    ("case", "edge"),
    [pytest.param(case, edge, id=f"{case.row}: {case.variant}: {edge}") for case in CASES for edge in case.edges],
)
def test_outcome(case, edge, atomic_requests, serve, client, caplog):
    """What commits is remembered and replayed; what rolls back is forgotten and runs again; what is neither is told."""
    runs = []

    def handler(request):
        runs.append(request)
        Payment.objects.create(amount=10)
        return case.handler(request)

    serve(EDGES[edge](handler, **case.options))

    # The first request.
    with case.fault(), caplog.at_level(logging.WARNING, "django_idempotency"), hearing("unsettled") as unsettled:
        if case.first is DIED:
            with pytest.raises(case.error):
                post(client)
        else:
            first = post(client)
            assert first.status_code == case.first
            assert not is_replay(first)
            if case.error:
                assert_error(first, case)
    warnings = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
    assert any(case.warning in warning for warning in warnings) if case.warning else not warnings

    # The database after it.
    assert len(runs) == 1
    assert Payment.objects.count() == (0 if case.retry == RUNS_AGAIN else 1)
    assert IdempotencyRecord.objects.count() == (0 if case.retry == RUNS_AGAIN else 1)
    assert IdempotencyRecord.objects.unsettled().count() == (1 if case.retry == OUTCOME_UNKNOWN else 0)
    assert [about["identity"].key for _, about in unsettled] == (["key-1"] if case.retry == OUTCOME_UNKNOWN else [])

    # The retry.
    if case.first is DIED and case.second is None:
        with pytest.raises(case.error):
            post(client)
    else:
        second = post(client)
        assert second.status_code == (case.second or case.first)
        assert is_replay(second) == (case.retry == REPLAYED)
        if case.retry == REPLAYED and case.second is None:
            assert body(second) == body(first)
            assert second["Content-Type"] == first["Content-Type"]
        if case.retry == OUTCOME_UNKNOWN:
            assert second.json()["code"] == "outcome-unknown"
    assert len(runs) == (2 if case.retry == RUNS_AGAIN else 1)
    assert Payment.objects.count() == (1 if case.retry != RUNS_AGAIN or case.second == 201 else 0)
    if case.row == BROKEN:
        assert not Unique.objects.exists()


def assert_error(response: Any, case: Case) -> None:
    error = response.exc_info[1]
    assert isinstance(error, case.error)
    assert case.message in "\n".join([str(error), *getattr(error, "__notes__", [])])


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else response.content
