"""What a receipt sees of a request that runs, on each kind of store: it waits for nobody and is in nobody's way."""

from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.urls import path

from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.stores import stores
from tests.app.models import Payment
from tests.app.serving import PATH, TIMEOUT, VENDOR, drf, expire, post
from tests.app.views import answer, make_payment
from tests.edges.test_statements import statements
from tests.lab.caches import NOWHERE, cache, need_redis
from tests.receipts.test_receipts import RECEIPTS, ask, state

pytestmark = pytest.mark.django_db(transaction=True)

OUTSIDE = {
    "redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "default"}},
    "memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"},
}
# One writer at a time: the writer's claim cannot be seen.
RUNNING = "never_seen" if VENDOR == "sqlite" else "in_flight"


@pytest.fixture
def serve_receipts(serve):
    def serve_receipts(view):
        serve(RECEIPTS, path(PATH.lstrip("/"), view))

    return serve_receipts


def test_in_flight_then_done(serve_receipts, api, gate, background, slow_payment):
    """While the transaction is open the receipt says so, and later it has the answer."""
    serve_receipts(drf(slow_payment))
    first = background(post, api)
    gate.reached()

    running = ask(api)
    gate.open()

    assert running.json() == {"state": RUNNING}
    assert running.headers.get("Retry-After") == (None if VENDOR == "sqlite" else "1")
    assert first.result(TIMEOUT).status_code == 201
    assert state(api) == "done"


def test_in_flight_then_rolled_back(serve_receipts, api, gate, background):
    """What is rolled back was never seen."""

    def refuse(request):
        Payment.objects.create(amount=1)
        gate.wait()
        return answer(request, {}, 400)

    serve_receipts(drf(refuse))
    first = background(post, api)
    gate.reached()
    assert state(api) == RUNNING
    gate.open()

    assert first.result(TIMEOUT).status_code == 400
    assert state(api) == "never_seen"


@pytest.mark.skipif(VENDOR == "sqlite", reason="its claims cannot be seen")
def test_an_expired_record_that_is_executed_again_is_in_flight(serve_receipts, api, gate, background, slow_payment):
    """The old row is there, and the claim has replaced it in a transaction that is open."""
    serve_receipts(drf(make_payment))
    post(api)
    expire()
    serve_receipts(drf(slow_payment))
    second = background(post, api)
    gate.reached()
    try:
        assert state(api) == "in_flight"
    finally:
        gate.open()
    second.result(TIMEOUT)


@pytest.mark.skipif(VENDOR != "mariadb", reason="other databases do not show what may be rolled back")
def test_an_answer_that_may_be_rolled_back_is_not_shown(gate, background):
    """At READ UNCOMMITTED a look-up would see the row of a transaction that is open."""
    attempt = Attempt(identity=Identity("s", "o", "k"), fingerprint=bytes(32), ttl=60.0)
    store = stores["default"]

    def claim():
        with transaction.atomic():
            store.claim("default", attempt)
            gate.wait()

    first = background(claim)
    gate.reached()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        connection.isolation_level = "read uncommitted"  # as the database's OPTIONS would have set both
        assert store.peek("default", attempt.identity.digest).is_in_flight
    finally:
        gate.open()
        first.result(TIMEOUT)
        connection.close()


@pytest.mark.parametrize("store", OUTSIDE)
def test_outside_the_database(serve_receipts, api, gate, background, slow_payment, settings, store):
    """A claim in flight is seen, and so are the answer and an outcome that is not known."""
    if store == "redis":
        need_redis()
    settings.CACHES = {"default": cache()}
    settings.IDEMPOTENCY = {"STORES": OUTSIDE, "STORE": store}
    key = str(uuid4())  # Redis keeps those of other runs
    serve_receipts(drf(slow_payment))
    assert state(api, key=key) == "never_seen"
    first = background(post, api, key=key)
    gate.reached()
    assert state(api, key=key) == "in_flight"
    gate.open()
    paid = first.result(TIMEOUT)

    found = ask(api, key=key).json()

    assert (found["state"], found["answer"]["body"].encode()) == ("done", paid.content)

    def lost(request):
        raise TimeoutError

    serve_receipts(drf(lost))
    lost_key = str(uuid4())
    assert post(api, key=lost_key).status_code == 500
    assert state(api, key=lost_key) == "unknown"


def test_a_redis_that_is_away(serve_receipts, api, settings):
    """503, as for a retry: it is not said that the key was never seen."""
    settings.CACHES = {"default": cache(NOWHERE)}
    settings.IDEMPOTENCY = {"STORES": OUTSIDE, "STORE": "redis"}
    serve_receipts(drf(make_payment))

    response = ask(api)

    assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")


def test_a_run_in_phases(serve_receipts, api, gate, background):
    """In flight while its owner works; interrupted when a retry would go on; done with its answer; else unknown."""
    fails = [TimeoutError()]

    def pay(request):
        request.idempotency.phase("order", lambda: Payment.objects.create(amount=1).pk)
        gate.wait()
        if fails:
            raise fails.pop()
        return answer(request, {"paid": True})

    serve_receipts(drf(pay, mode="phased"))
    first = background(post, api)
    gate.reached()
    assert state(api) == "in_flight"
    gate.open()
    assert first.result(TIMEOUT).status_code == 500
    assert state(api) == "interrupted"

    assert post(api).status_code == 201
    assert ask(api).json()["answer"]["body"] == '{"paid":true}'


def test_a_run_that_was_given_up_is_unknown(serve_receipts, api):
    """As for a retry."""

    def fail(request):
        request.idempotency.phase("order", lambda: 1)
        raise TimeoutError

    serve_receipts(drf(fail, mode="phased", max_attempts=1))
    post(api)
    post(api)

    assert state(api) == "unknown"


COST = {"postgresql": (3, 1), "mariadb": (4, 1), "sqlite": (2, 1)}[VENDOR]


def test_what_it_costs(serve_receipts, api):
    """Statements for a key that was never seen, and for one that is done, beside the authentication's."""
    serve_receipts(drf(make_payment))
    authentication = 1
    state(api)

    never = statements(lambda: state(api))
    post(api)
    done = statements(lambda: state(api))

    assert (len(never) - authentication, len(done) - authentication) == COST
