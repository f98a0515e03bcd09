"""Keys follow their tenants to the shard of their rows."""

import pytest
from django.core.management import call_command
from django.db import connections
from django.urls import path

from django_idempotency import once
from django_idempotency.models import DatabaseNow, IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import PATH, VENDOR, drf, is_replay
from tests.app.views import make_payment
from tests.sharded.project import ACME, BOLT, SHARDS, homes, move_records, shard_of

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", *SHARDS]),
    pytest.mark.usefixtures("shards"),
]


@pytest.fixture(params=["using", "router"])
def options(request, settings):
    """How the project says where records go: by the option, or by its router alone."""
    router = {"using": "PaymentRouter", "router": "ShardRouter"}[request.param]
    settings.DATABASE_ROUTERS = [f"tests.sharded.project.{router}"]
    settings.MIDDLEWARE = ["tests.sharded.project.ShardMiddleware", *settings.MIDDLEWARE]
    return {"using": shard_of} if request.param == "using" else {}


@pytest.fixture
def sharded(options, settings):
    """Serve *handler* to both tenants."""

    def serve(handler=make_payment):
        settings.ROOT_URLCONF = (path(PATH.lstrip("/"), drf(handler, **options)),)

    return serve


def pay(api, host, key="key-1"):
    return api.post(PATH, {"amount": 10}, headers={"Idempotency-Key": key, "Host": host})


def stored():
    """How many payments and records each database has."""
    return {
        alias: (Payment.objects.using(alias).count(), IdempotencyRecord.objects.using(alias).count())
        for alias in ("default", *SHARDS)
    }


def test_the_same_key_of_two_tenants_does_not_meet(api, sharded):
    """One user, one key, one body, one route: two tenants are two requests, and each has its own replay."""
    sharded()

    first = [pay(api, host) for host in (ACME, BOLT)]
    second = [pay(api, host) for host in (ACME, BOLT)]

    assert [response.status_code for response in first] == [201, 201]
    assert not any(map(is_replay, first))
    assert all(map(is_replay, second))
    assert [response.content for response in first] == [response.content for response in second]
    assert stored() == {"default": (0, 0), "north": (1, 1), "south": (1, 1)}
    digests = [IdempotencyRecord.objects.using(alias).get().pk for alias in SHARDS]
    assert digests[0] == digests[1]  # it is the database that keeps them apart


def test_work_and_record_are_one_transaction_of_the_shard(api, sharded):
    """It is open on that shard alone, and takes both back if the handler raises."""
    seen = []

    def handler(request):
        seen.append({alias for alias in ("default", *SHARDS) if connections[alias].in_atomic_block})
        make_payment(request)
        assert IdempotencyRecord.objects.using("south").count() == 1  # the claim, which nobody else sees
        raise ArithmeticError

    sharded(handler)

    assert pay(api, BOLT).status_code == 500
    assert seen == [{"south"}]
    assert stored() == dict.fromkeys(("default", *SHARDS), (0, 0))


def test_a_key_in_flight_on_one_shard_is_free_on_the_other(user, api, sharded, background, gate):
    """Locks are a database's own, on one server, too."""

    def handler(request):
        if request.get_host() == ACME:
            gate.wait()
        return make_payment(request)

    sharded(handler)
    running = background(pay, api, ACME)
    gate.reached()

    assert pay(api, BOLT).status_code == 201
    if VENDOR != "sqlite":  # where the duplicate waits
        assert pay(api, ACME).status_code == 409
    gate.open()

    assert running.result().status_code == 201
    assert is_replay(pay(api, ACME))
    assert stored() == {"default": (0, 0), "north": (1, 1), "south": (1, 1)}


def test_a_tenant_that_moves_without_its_records_is_new(api, sharded, monkeypatch):
    """The retry runs again: the records have to move with the rows."""
    sharded()
    assert pay(api, ACME).status_code == 201

    monkeypatch.setitem(homes, ACME, "south")

    assert not is_replay(pay(api, ACME))
    assert stored() == {"default": (0, 0), "north": (1, 1), "south": (1, 1)}


def test_a_tenant_that_moves_with_its_records_keeps_its_answers(user, api, sharded, monkeypatch):
    """A copy of the rows is the same record, because the primary key is the identity and names no database."""
    sharded()
    first = pay(api, ACME)

    assert move_records([f"auth.user:{user.pk}"], "north", "south") == 1
    monkeypatch.setitem(homes, ACME, "south")
    second = pay(api, ACME)

    assert is_replay(second)
    assert second.content == first.content
    assert stored() == {"default": (0, 0), "north": (1, 1), "south": (0, 1)}


def test_each_shard_is_purged_by_its_name(api, sharded):
    """As the command says itself."""
    sharded()
    for host in (ACME, BOLT):
        pay(api, host)
    for alias in SHARDS:
        IdempotencyRecord.objects.using(alias).update(expires_at=DatabaseNow())

    call_command("idempotency_purge", "--database", "north", "--database", "south", verbosity=0)

    assert stored() == {"default": (0, 0), "north": (1, 0), "south": (1, 0)}


@once("sharded.pay", key=lambda shard, event: event, using=lambda shard, event: shard)
def paid(shard, event):
    return Payment.objects.using(shard).create(amount=1).pk


def test_an_event_goes_to_the_shard_that_its_arguments_name():
    """`using` of `@once` gets the function's arguments."""
    runs = [paid.run(shard, "event-1").replayed for shard in ("north", "south", "north")]

    assert runs == [False, False, True]
    assert stored() == {"default": (0, 0), "north": (1, 1), "south": (1, 1)}


@pytest.mark.parametrize("options", ["using"], indirect=True)
def test_a_shard_that_is_not_configured_is_an_error_before_the_handler(api, sharded, monkeypatch):
    """It names the option and the value."""
    monkeypatch.setitem(homes, ACME, "west")
    sharded(lambda request: pytest.fail("the handler ran"))

    response = pay(api, ACME)

    assert response.status_code == 500
    assert "'using' returned 'west', which is not in DATABASES" in str(response.exc_info[1])
