"""Late retries: keys that are too old, records whose answers have ended, and routes that were renamed."""

import time
import uuid
from datetime import timedelta
from itertools import count

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.http import JsonResponse
from django.test.utils import CaptureQueriesContext
from django.urls import path, re_path
from rest_framework.response import Response

from django_idempotency import once
from django_idempotency.models import AnswerEnd, IdempotencyRecord
from django_idempotency.operations.purging import Purged, purge
from django_idempotency.operations.records import free
from django_idempotency.stores.database.clock import as_django_writes
from django_idempotency.testing import expire
from django_idempotency.testing.clock import LONG_AGO
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR, drf, is_replay, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db(transaction=True)

LATE = {"ttl": timedelta(hours=1), "tombstone_ttl": timedelta(days=90)}


def code(response):
    return response.json().get("code")


def uuid7(seconds_ago):
    milliseconds = int((time.time() - seconds_ago) * 1000)
    number = milliseconds << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int & (1 << 62) - 1
    return str(uuid.UUID(int=number))


class Killed(BaseException):
    """The process ends here."""


# --- tombstones ---


def test_a_late_retry_is_refused(protect, client, serve):
    """At once, after the purge, and if its payload differs, as another request; not after an operator freed the key."""
    serve(protect(make_payment, **LATE))
    post(client)
    assert is_replay(post(client))
    expire()

    late = post(client)
    assert (late.status_code, code(late)) == (400, "key-expired")
    assert "Retry-After" not in late.headers
    assert code(post(client, {"amount": 7})) == "key-reused"
    assert purge(dry_run=True) == Purged(count=0, tombstones=1, finished=True)
    assert purge() == Purged(count=0, tombstones=1, finished=True)
    assert purge() == Purged(count=0, finished=True)
    assert code(post(client)) == "key-expired"
    row = IdempotencyRecord.objects.get()
    assert (bytes(row.body), bytes(row.head), row.request, row.record) == (b"", b"", "", None)
    assert Payment.objects.count() == 1

    free(row)
    assert post(client).status_code == 201
    assert Payment.objects.count() == 2


def test_an_answer_ends_by_the_databases_clock(api, serve):
    """Nobody moves the record: no second run at any time, from replay to refusal."""
    serve(drf(make_payment, ttl=timedelta(seconds=0.5), tombstone_ttl=timedelta(hours=1)))
    post(api)
    seen = []
    deadline = time.monotonic() + TIMEOUT
    while not seen or seen[-1] != "key-expired":
        response = post(api)
        seen.append("replay" if is_replay(response) else code(response))
        assert time.monotonic() < deadline

    assert set(seen) <= {"replay", "key-expired"}
    assert Payment.objects.count() == 1


@pytest.mark.parametrize("ttl", [timedelta(minutes=5), timedelta(days=90)])
def test_both_times_count_from_the_completion(protect, client, serve, ttl):
    """Though the handler took less than 1 % of both together, of which one may be shorter than the handler."""
    other = timedelta(days=90, minutes=5) - ttl

    def handler(request):
        IdempotencyRecord.objects.update(
            executed_at=F("executed_at") - timedelta(hours=2), expires_at=F("expires_at") - timedelta(hours=2)
        )
        return make_payment(request)

    serve(protect(handler, ttl=ttl, tombstone_ttl=other))
    post(client)

    assert is_replay(post(client))
    [end], [row] = AnswerEnd.objects.all(), IdempotencyRecord.objects.all()
    completed = row.executed_at + timedelta(hours=2)
    assert end.ends_at - completed >= 0.99 * ttl
    assert row.expires_at - end.ends_at >= 0.99 * other


def test_tombstones_are_purged_in_their_own_time(api, serve):
    """Then the key is new; what an earlier execution has left does not touch a later one's answer."""
    serve(drf(make_payment, **LATE))
    post(api)
    expire()
    IdempotencyRecord.objects.update(expires_at=as_django_writes("default", LONG_AGO))  # never purged until now
    serve(drf(make_payment))  # without the option: the key is taken over

    assert post(api).status_code == 201
    assert is_replay(post(api))
    assert purge() == Purged(count=0, finished=True)
    assert is_replay(post(api))
    assert not AnswerEnd.objects.exists()
    assert Payment.objects.count() == 2


def test_only_who_uses_tombstones_pays(api, serve):
    """One statement for the record's end, one for each replay."""

    def statements():
        with CaptureQueriesContext(connection) as queries:
            post(api)
        return [query["sql"] for query in queries if "idempotency" in query["sql"]]

    serve(drf(make_payment))
    first, replay = len(statements()), len(statements())
    IdempotencyRecord.objects.all().delete()
    serve(drf(make_payment, **LATE))

    assert len(statements()) == first + 1
    assert len(statements()) == replay + 1


def test_a_purge_that_is_killed_leaves_record_or_tombstone(api, serve):
    """Before each of its statements: the retry is refused all the same, and the next purge does the rest."""
    serve(drf(make_payment, **LATE))
    for key in "abc":
        post(api, key=key)
    expire()
    deaths = 0
    for allowed in count():
        left = iter(range(allowed))

        def run(execute, sql, *call, left=left):
            if "idempotency" in sql and next(left, None) is None:
                raise Killed
            return execute(sql, *call)

        try:
            with connection.execute_wrapper(run):
                purge(batch_size=2)
            break
        except Killed:
            deaths += 1
        assert [code(post(api, key=key)) for key in "abc"] == ["key-expired"] * 3

    assert deaths > 5
    assert not AnswerEnd.objects.exists()
    assert {row.status for row in IdempotencyRecord.objects.all()} == {1}
    assert Payment.objects.count() == 3


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite locks no rows")
def test_a_purge_leaves_a_locked_record_to_the_next_one(api, serve, background):
    """Its end stays, too, or the answer would be sent again."""
    serve(drf(make_payment, **LATE))
    post(api)
    expire()
    with transaction.atomic():
        IdempotencyRecord.objects.select_for_update().get()
        assert background(purge).result(TIMEOUT).tombstones == 0

    assert code(post(api)) == "key-expired"
    assert purge() == Purged(count=0, tombstones=1, finished=True)


def test_a_purge_between_the_two_looks_of_a_retry(api, serve, background):
    """The record was read, and the purge drops its answer and its end before the retry asks whether it has ended."""
    serve(drf(make_payment, **LATE))
    post(api)
    expire()
    purged = []

    def between(execute, sql, *call):
        if "answer_end" in sql and not purged:
            purged.append(background(purge).result(TIMEOUT))
        return execute(sql, *call)

    with connection.execute_wrapper(between):
        assert code(post(api)) == "key-expired"
    assert purged == [Purged(count=0, tombstones=1, finished=True)]
    assert Payment.objects.count() == 1


def test_late_retries_race_with_the_purge(api, serve, background):
    """Whether they find the record or the tombstone, they are refused; on SQLite they take turns."""
    serve(drf(make_payment, **LATE))
    keys = [f"key-{number}" for number in range(20)]
    for key in keys:
        post(api, key=key)
    expire()

    retries = [background(lambda: [code(post(api, key=key)) for key in keys]) for _ in range(3)]
    purged = purge(batch_size=1)

    assert {each for retry in retries for each in retry.result(TIMEOUT)} == {"key-expired"}
    assert purged == Purged(count=0, tombstones=20, finished=True)
    assert Payment.objects.count() == 20


def test_a_handler_that_rolls_back_leaves_no_end(api, serve):
    """Nor does one that breaks its transaction."""
    serve(drf(lambda request: Response(status=409), **LATE))

    assert post(api).status_code == 409
    assert not AnswerEnd.objects.exists()


def test_an_event_that_is_redelivered_too_late_is_an_error():
    """The consumer decides what becomes of it."""
    from django_idempotency.exceptions import KeyExpired

    ran = []
    pay = once("late.pay", key=lambda event: event, **LATE)(lambda event: ran.append(event))
    pay("a")
    expire()

    with pytest.raises(KeyExpired):
        pay("a")
    assert ran == ["a"]


# --- keys that tell their age ---


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        (lambda: uuid7(0), None),
        (lambda: uuid7(3500), None),
        (lambda: uuid7(3700), "key-expired"),
        (lambda: uuid7(-120), "key-expired"),
        (lambda: str(uuid.uuid4()), "key-invalid"),
    ],
    ids=["new", "old", "too old", "of the future", "without a time"],
)
def test_the_age_of_a_key(protect, client, serve, key, refused):
    """A refused key does nothing and is stored nowhere."""
    serve(protect(make_payment, key_max_age=timedelta(hours=1)))

    response = post(client, key=key())

    assert code(response) == refused
    assert response.status_code == (400 if refused else 201)
    assert IdempotencyRecord.objects.count() == Payment.objects.count() == (0 if refused else 1)


# --- a route that was renamed ---

OLD, NEW = "payments/<int:pk>/refund/", "v2/refunds/<int:pk>/"
OLD_REGEX = r"^payments/(?P<pk>[^/.]+)/refund/$"  # as the routers of DRF write it
SPELLINGS = {
    "path": (path, OLD, NEW, f"POST {OLD}"),
    "regex": (re_path, OLD_REGEX, r"^v2/refunds/(?P<pk>[^/.]+)/$", f"POST {OLD_REGEX}"),
}
FORMER_URL, URL = "/payments/5/refund/", "/v2/refunds/5/"


@pytest.fixture
def deploy(serve):
    """Serve the old route, as before the deploy, the new one, or both, as during it."""
    keys = []

    def handler(request, pk):
        handle = getattr(request, "_request", request).idempotency
        keys.append(handle.derive_key("gateway"))
        Payment.objects.create(amount=pk)
        return JsonResponse({"refunded": pk}, status=201)

    def deploy(*which, make=drf, spelling="path", handler=handler, **options):
        pattern, old, new, alias = SPELLINGS[spelling]
        views = {
            "old": pattern(old, make(handler, **options)),
            "new": pattern(new, make(handler, operation_aliases=[alias], **options)),
            "later": pattern(new, make(handler, **options)),
        }
        serve(*[views[each] for each in which])

    deploy.keys = keys
    return deploy


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_records_of_the_former_route_answer(deploy, protect, client, spelling):
    """What differs is still another request, and a new key is executed, once for both routes."""
    deploy("old", make=protect, spelling=spelling)
    first = post(client, url=FORMER_URL)
    deploy("old", "new", make=protect, spelling=spelling)

    retry = post(client, url=URL)
    assert is_replay(retry)
    assert retry.content == first.content
    assert code(post(client, {"amount": 7}, url=URL)) == "key-reused"
    assert code(post(client, url="/v2/refunds/6/")) == "key-reused"
    assert Payment.objects.count() == 1

    assert post(client, url=URL, key="key-2").status_code == 201
    assert is_replay(post(client, url=URL, key="key-2"))
    assert is_replay(post(client, url=FORMER_URL, key="key-2")), "by a process that knows the old route alone"
    deploy("later", make=protect, spelling=spelling)
    assert is_replay(post(client, url=URL, key="key-2")), "after the alias has gone"
    assert Payment.objects.count() == 2
    assert IdempotencyRecord.objects.filter(status__lt=200).count() == 0


def test_downstream_keys_stay(deploy, api):
    """The gateway knows the retry of a payment that was rolled back before the deploy."""
    deploy("old", should_store=lambda response: False)
    post(api, url=FORMER_URL)
    deploy("new")
    post(api, url=URL)

    assert len(set(deploy.keys)) == 1


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one writer: the second waits for its turn")
@pytest.mark.parametrize(("first", "second"), [(FORMER_URL, URL), (URL, FORMER_URL)], ids=["old first", "new first"])
def test_processes_with_either_route_exclude_each_other(deploy, api, other_api, background, gate, first, second):
    """During a rolling deploy, whichever came first."""

    def handler(request, pk):
        gate.wait()
        Payment.objects.create(amount=pk)
        return JsonResponse({}, status=201)

    deploy("old", "new", handler=handler)
    running = background(post, api, url=first)
    gate.reached()

    assert code(post(api, url=second)) == "request-in-progress"
    gate.open()
    assert running.result(TIMEOUT).status_code == 201
    assert is_replay(post(api, url=second))
    assert is_replay(post(api, url=first))
    assert Payment.objects.count() == 1


def test_a_refusal_frees_all_names(deploy, api):
    """And a handler that raises."""
    deploy("old", "new", handler=lambda request, pk: Response(status=409))
    assert post(api, url=URL).status_code == 409
    deploy("old", "new")

    assert IdempotencyRecord.objects.count() == 0
    assert post(api, url=FORMER_URL).status_code == 201
    assert is_replay(post(api, url=URL))


def test_late_retries_of_a_renamed_route(deploy, api):
    """The tombstone is found under the former name."""
    deploy("old", **LATE)
    post(api, url=FORMER_URL)
    expire()
    purge()
    deploy("new", **LATE)

    assert code(post(api, url=URL)) == "key-expired"
    assert Payment.objects.count() == 1


def test_an_event_of_a_renamed_operation():
    """Two former names, the oldest first."""
    ran = []
    once("late.first", key=lambda event: event)(lambda event: ran.append(event))("a")
    once("late.second", key=lambda event: event)(lambda event: ran.append(event))("b")
    now = once("late.third", key=lambda event: event, operation_aliases=["late.first", "late.second"])(
        lambda event: ran.append(event)
    )

    assert [now.run(event).replayed for event in "abcc"] == [True, True, False, True]
    assert ran == ["a", "b", "c"]
