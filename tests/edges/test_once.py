"""`@once`: work that comes by other roads than HTTP takes effect once per event."""

import datetime
import decimal
import functools
import uuid

import celery
import dramatiq
import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from dramatiq.brokers.stub import StubBroker

from django_idempotency import current_operation, once
from django_idempotency.exceptions import (
    CommittedEarly,
    KeyInvalid,
    KeyMissing,
    KeyReused,
    OutcomeUnknown,
    PolicyError,
    RequestInProgress,
    StoreUnavailable,
    UnstorableResponse,
)
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR
from tests.ids import spelt

pytestmark = pytest.mark.django_db(transaction=True)

EVENT = {"id": "evt-1", "amount": 10}


def of_event(event):
    return event["id"]


@once("invoice.paid", key=of_event)
def pay(event):
    """Pay an invoice."""
    return {"payment": Payment.objects.create(amount=event["amount"]).pk}


def test_a_redelivery_gets_the_recorded_result():
    """It runs nothing, and returns what the first delivery returned."""
    first, second, third = pay(EVENT), pay(EVENT), pay({**EVENT, "pending_webhooks": 2})

    assert first == second == third == {"payment": Payment.objects.get().pk}


def test_run_tells_whether_the_result_is_replayed():
    """A consumer that counts or logs wants to know; the value is the same."""
    outcomes = [pay.run(EVENT), pay.run(EVENT)]

    assert [outcome.replayed for outcome in outcomes] == [False, True]
    assert outcomes[0].value == outcomes[1].value == pay(EVENT)


def test_the_operation_that_runs_is_known_inside_it():
    """`current_operation()` is the innermost one's handle, and None outside."""
    seen = []

    @once("inner", key=of_event)
    def inner(event):
        seen.append(current_operation())

    @once("outer", key=of_event)
    def outer(event):
        seen.append(current_operation())
        inner(event)
        seen.append(current_operation())

    outer(EVENT)

    assert [handle.identity.operation for handle in seen] == ["outer", "inner", "outer"]
    assert seen[0].derive_key("gateway") == seen[2].derive_key("gateway") != seen[1].derive_key("gateway")
    assert current_operation() is None


def test_the_function_keeps_its_name():
    """As `functools.wraps` does."""
    assert (pay.__name__, pay.__doc__) == ("pay", "Pay an invoice.")


def test_another_operation_is_another_key():
    """The name tells operations apart."""

    @once("invoice.refunded", key=of_event)
    def refund(event):
        Payment.objects.create(amount=-event["amount"])

    pay(EVENT)
    assert refund(EVENT) is None
    assert refund(EVENT) is None
    assert [payment.amount for payment in Payment.objects.order_by("pk")] == [10, -10]


RESULTS = [None, True, 0, -1.5, "caf\u00e9", "\ud83d\ude00", [], [1, [2, None]], {}, {"a": {"b": [1]}}]


@pytest.mark.parametrize("result", RESULTS, ids=spelt)
def test_a_result_comes_back_as_it_was(result):
    """JSON, whole and unchanged."""

    @once("event", key=lambda: 1)
    def work():
        Payment.objects.create(amount=1)
        return result

    assert work() == work() == result
    assert type(work()) is type(result)
    assert Payment.objects.count() == 1


NO_JSON = {
    "an object": object(),
    "a model": Payment(amount=1),
    "bytes": b"bytes",
    "a date": datetime.date(2026, 1, 1),
    "a decimal": decimal.Decimal("1.0"),
    "a UUID": uuid.UUID(int=1),
    "a set": {1},
    "a tuple": (1, 2),
    "a number as name": {1: "one"},
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "a tuple within": {"a": (1,)},
}


@pytest.mark.parametrize("result", NO_JSON.values(), ids=NO_JSON)
def test_a_result_that_is_no_json_is_an_error_and_rolls_back(result):
    """A redelivery would get something else than the first delivery: nothing is committed, and the error says why."""

    @once("event", key=lambda: 1)
    def work():
        Payment.objects.create(amount=1)
        return result

    with pytest.raises(UnstorableResponse, match="return JSON"):
        work()
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_a_result_over_max_body_is_an_error_and_rolls_back():
    """The error names the option."""

    @once("event", key=lambda: 1, max_body=10)
    def work():
        Payment.objects.create(amount=1)
        return "x" * 20

    with pytest.raises(UnstorableResponse, match="max_body"):
        work()
    assert not Payment.objects.exists()


def test_an_error_rolls_back_and_the_redelivery_runs():
    """What the function raises reaches the consumer, which lets the broker deliver again."""
    errors = [ValueError("not yet")]

    @once("event", key=of_event)
    def work(event):
        Payment.objects.create(amount=1)
        if errors:
            raise errors.pop()
        return "done"

    with pytest.raises(ValueError, match="not yet"):
        work(EVENT)
    assert not Payment.objects.exists()
    assert work(EVENT) == work(EVENT) == "done"
    assert Payment.objects.count() == 1


def test_a_redelivery_while_the_first_runs(background, gate, monkeypatch):
    """`RequestInProgress`, for the broker to come again later (`StoreUnavailable` on SQLite, past its busy timeout)."""
    if VENDOR == "sqlite":
        monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "timeout", 0.1)

    @once("event", key=of_event)
    def work(event):
        gate.wait()
        return Payment.objects.create(amount=1).pk

    first = background(work, EVENT)
    gate.reached()

    with pytest.raises(StoreUnavailable if VENDOR == "sqlite" else RequestInProgress) as refusal:
        background(work, EVENT).result(TIMEOUT)
    assert refusal.value.retry_after >= 1

    gate.open()
    assert first.result(TIMEOUT) == work(EVENT) == Payment.objects.get().pk


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_using():
    """The database that the function writes to, as an alias or a callable of the event."""

    @once("event", key=of_event, using=lambda event: event["shard"])
    def work(event):
        return Payment.objects.using(event["shard"]).create(amount=1).pk

    for shard in ("default", "other"):
        assert work({"id": 1, "shard": shard}) == work({"id": 1, "shard": shard})

    assert Payment.objects.count() == Payment.objects.using("other").count() == 1


def test_scope():
    """Two tenants' events may have the same id."""

    @once("event", key=of_event, scope=lambda event: event["tenant"])
    def work(event):
        Payment.objects.create(amount=1)

    for tenant in ("a", "b", "a"):
        work({"id": 1, "tenant": tenant})

    assert Payment.objects.count() == 2


def test_fingerprint():
    """The option picks what tells two events apart: a delivery's own fields do not."""

    @once("event", key=of_event, fingerprint=lambda event: str(event["amount"]).encode())
    def work(event):
        return Payment.objects.create(amount=1).pk

    assert work({**EVENT, "delivery": 1}) == work({**EVENT, "delivery": 2})
    with pytest.raises(KeyReused):
        work({**EVENT, "amount": 11})


def test_key_format():
    """An id that does not fit is the sender's error."""

    @once("event", key=of_event, key_format=r"evt-\d+")
    def work(event):
        return 1

    assert work(EVENT) == 1
    with pytest.raises(KeyInvalid, match="key_format"):
        work({"id": "x"})


@pytest.mark.parametrize("key", ["", "caf\u00e9", "x" * 256, 1.5, b"evt", True])
def test_a_key_that_is_none(key):
    """1 to 255 printable ASCII characters, or a number, or a UUID."""
    with pytest.raises(KeyInvalid):
        pay({"id": key, "amount": 1})
    assert not Payment.objects.exists()


@pytest.mark.parametrize("key", [7, uuid.UUID(int=7), "evt 7, of today"])
def test_keys_of_other_kinds(key):
    """As senders have them."""
    assert pay({"id": key, "amount": 1}) == pay({"id": key, "amount": 1})


def test_an_event_without_a_key():
    """None is an error that names the option."""
    with pytest.raises(KeyMissing, match="`key`"):
        pay({"id": None, "amount": 1})


@pytest.mark.parametrize("fingerprint", ["amount", 10, None], ids=spelt)
def test_a_fingerprint_that_is_not_bytes(fingerprint):
    """The error names the option."""

    @once("event", key=of_event, fingerprint=lambda event: fingerprint)
    def work(event):
        Payment.objects.create(amount=1)

    with pytest.raises(PolicyError, match="'fingerprint' must return bytes"):
        work(EVENT)
    assert not Payment.objects.exists()


def test_an_argument_by_position_and_by_name_is_the_same():
    """How a broker's adapter calls the function may change with a deploy; the event is the same one."""

    @once("by-name", key=lambda event, source="x": event["id"])
    def record(event, source="x"):
        return pay(event)

    event = {"id": "e1", "amount": 10}
    results = [record(event), record(event=event)]

    assert results[0] == results[1]
    assert Payment.objects.count() == 1


def test_on_a_method():
    """A class's handler is protected like a function; the options see `self` as well."""

    class Consumer:
        @once("event", key=lambda self, event: event["id"])
        def handle(self, event):
            return Payment.objects.create(amount=1).pk

    assert Consumer().handle(EVENT) == Consumer().handle(EVENT)
    assert Consumer.handle.run(Consumer(), EVENT).replayed


def test_a_function_that_asks_for_a_rollback():
    """Its result reaches the caller, and nothing is kept."""

    @once("event", key=of_event)
    def work(event):
        Payment.objects.create(amount=1)
        transaction.set_rollback(True)
        return 1

    assert work(EVENT) == work(EVENT) == 1
    assert not Payment.objects.exists()


def test_a_function_that_commits_by_itself():
    """Its outcome is unknown, and it does not run again by itself."""

    @once("event", key=of_event)
    def work(event):
        with connection.cursor() as cursor:
            cursor.execute("COMMIT")

    with pytest.raises(CommittedEarly):
        work(EVENT)
    with pytest.raises(OutcomeUnknown):
        work(EVENT)


def test_the_settings_options_of_requests_do_not_hold_for_events(settings):
    """A project's `SCOPE` or `KEY` reads requests; an event is none. What is about time and place does hold."""
    settings.IDEMPOTENCY = {
        "SCOPE": "tests.edges.test_options.scope_by_header",
        "KEY": "tests.edges.test_options.key_by_header",
        "KEY_FORMAT": "uuid",
        "FINGERPRINT": "tests.edges.test_options.amount_alone",
        "SHOULD_STORE": "tests.edges.test_options.keep_none",
        "REPLAY_GUARD": "tests.edges.test_options.forbid",
        "USING": lambda request: request.headers["X-Shard"],
        "REQUIRED": True,
        "TTL": datetime.timedelta(days=2),
    }

    assert pay(EVENT) == pay(EVENT)
    record = IdempotencyRecord.objects.get()
    assert record.expires_at - record.executed_at == datetime.timedelta(days=2)


WRONG = {
    "no name": lambda: once(pay),
    "an empty name": lambda: once("", key=of_event),
    "no key": lambda: once("event"),
    "a key of None": lambda: once("event", key=None),
    "an option of views": lambda: once("event", key=of_event, docs_url="/docs/"),
    "a bad value": lambda: once("event", key=of_event, ttl=3600),
    "no function": lambda: once("event", key=of_event)("pay"),
    "a class": lambda: once("event", key=of_event)(Payment),
    "a bound method": lambda: once("event", key=of_event)(EVENT.get),
    "a static method": lambda: once("event", key=of_event)(staticmethod(of_event)),
}


@pytest.mark.parametrize("decorate", WRONG.values(), ids=WRONG)
def test_a_wrong_use_is_an_error_at_decoration(decorate):
    """At import, with words that help."""
    with pytest.raises(ImproperlyConfigured, match="@once"):
        decorate()


def with_delay(function):
    """As RQ's `@job`: a function with a method that enqueues it."""

    @functools.wraps(function)
    def job(*args):
        return function(*args)

    job.delay = job
    return job


def in_all_applications(function):
    return celery.shared_task(function, name=f"task-{uuid.uuid4()}")  # no application may have two of one name


def django_tasks_of(package):
    return lambda function: pytest.importorskip(package).task(function)


# The decorator of each queue, and how its worker calls the task.
QUEUES = {
    "celery": (
        lambda function: Celery(set_as_current=False).task(function),
        lambda task, *args: task.apply(args).get(),
    ),
    "celery's shared_task": (in_all_applications, lambda task, *args: task.apply(args).get()),
    "dramatiq": (lambda function: dramatiq.actor(function, broker=StubBroker()), lambda task, *args: task(*args)),
    "django": (django_tasks_of("django.tasks"), lambda task, *args: task.call(*args)),
    "django-tasks": (django_tasks_of("django_tasks"), lambda task, *args: task.call(*args)),
    "rq": (with_delay, lambda task, *args: task(*args)),
}
DERIVED = []


def on_paid(event):
    """At a module's level, where Django's tasks have to be."""
    DERIVED.append(current_operation().derive_key("gateway"))
    Payment.objects.create(amount=1)
    if event.get("fails"):
        raise ValueError("not yet")
    return event.get("result", "done")


protected_on_paid = once("event", key=of_event)(on_paid)


@pytest.mark.parametrize("decorator", [*(decorator for decorator, _ in QUEUES.values())], ids=QUEUES)
def test_around_a_queues_task_is_an_error_that_shows_the_order(decorator):
    """The queue would run the function that it was given, unprotected."""
    with pytest.raises(PolicyError, match=r'    @shared_task.*\n    @once\("event", key=...\)\n    def on_paid'):
        once("event", key=of_event)(decorator(on_paid))


@pytest.mark.parametrize(("decorator", "deliver"), QUEUES.values(), ids=QUEUES)
def test_inside_a_queues_decorator_is_right(decorator, deliver):
    """What the queue runs is protected; a derived key is the same at each delivery; a result must be JSON."""
    task = decorator(protected_on_paid)
    DERIVED.clear()

    with pytest.raises(ValueError, match="not yet"):
        deliver(task, {**EVENT, "fails": True})
    assert deliver(task, EVENT) == deliver(task, EVENT) == "done"
    assert Payment.objects.count() == 1
    assert len(DERIVED) == 2
    assert DERIVED[0] == DERIVED[1]
    with pytest.raises(UnstorableResponse):
        deliver(task, {"id": "evt-2", "result": float("nan")})


def test_inside_staticmethod_is_right():
    class Consumer:
        @staticmethod
        @once("event", key=of_event)
        def handle(event):
            return Payment.objects.create(amount=1).pk

    assert Consumer.handle(EVENT) == Consumer.handle(EVENT) == Payment.objects.get().pk
