"""What is not stored: bodies, headers, and answers that are rendered again under today's permissions."""

import uuid
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.test.utils import CaptureQueriesContext
from rest_framework import exceptions as drf_exceptions
from rest_framework.renderers import JSONRenderer, StaticHTMLRenderer

from django_idempotency.core.operator_answer import operator_record
from django_idempotency.core.record import LEFT_OUT
from django_idempotency.exceptions import PolicyError, UnstorableResponse
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.records import settle
from django_idempotency.stores import stores
from tests.app.models import Payment
from tests.app.serving import drf_class, hearing, is_replay, plain, post
from tests.app.views import amount, answer
from tests.lab.caches import cache

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "4111111111111111"
DATABASE, REDIS = "django_idempotency.stores.database.DatabaseStore", "django_idempotency.stores.redis.RedisStore"


@pytest.fixture(params=["database", "replay cache", "redis"])
def kept_in(request, settings):
    """Where records are kept; a function that returns all bytes that are stored there."""
    prefix = f"secrets-{uuid.uuid4()}"
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "keys": cache(KEY_PREFIX=prefix),
    }
    options = {"replay cache": {"REPLAY_CACHE": "keys"}, "redis": {"CACHE": "keys"}}.get(request.param, {})
    backend = REDIS if request.param == "redis" else DATABASE
    settings.IDEMPOTENCY = {"STORES": {"default": {"BACKEND": backend, "OPTIONS": options}}}

    def stored() -> bytes:
        rows = IdempotencyRecord.objects.values_list("head", "body", "key", "scope", "request")
        found = b"".join(bytes(v) if isinstance(v, (bytes, memoryview)) else v.encode() for row in rows for v in row)
        if request.param != "database":
            raw = stores["default"].replay_cache or stores["default"]
            for name in raw.redis.client.scan_iter(f"*{prefix}*"):
                if raw.redis.client.type(name) == b"hash":
                    found += b"".join(raw.redis.client.hgetall(name).values())
                elif raw.redis.client.type(name) == b"string":
                    found += raw.redis.client.get(name)
        assert found
        return found

    yield stored
    caches["keys"].delete_pattern("*")


def card(request: Any) -> Any:
    """Keep a card, and answer with its number."""
    payment = Payment.objects.create(amount=amount(request), reference="card")
    response = answer(request, {"id": payment.pk, "number": SECRET})
    response["Location"] = f"/cards/{payment.pk}/"
    response["ETag"] = '"v1"'
    response["Content-Language"] = "en"
    response["Content-Disposition"] = 'inline; filename="card.json"'
    response["X-Card-Token"] = SECRET
    response["Authorization"] = f"Bearer {SECRET}"
    response["Proxy-Authorization"] = f"Bearer {SECRET}"
    response.set_cookie("card", SECRET)
    return response


OPTIONS: dict[str, Any] = {"unstored_headers": ["x-card-TOKEN"]}


# --- store_body, unstored_headers ---


def test_a_body_that_is_not_stored_is_not_replayed(client, protect, serve, kept_in):
    """The retry gets the status and the headers that are not about the body, and nothing runs again."""
    serve(protect(card, store_body=False, **OPTIONS))

    first, second = post(client), post(client)

    assert first.json()["number"] == first["X-Card-Token"] == SECRET
    assert SECRET.encode() not in kept_in()
    assert is_replay(second)
    assert (second.status_code, second.reason_phrase, second.content) == (201, "Created", b"")
    assert (second["Location"], second["ETag"]) == (first["Location"], '"v1"')
    described = {"Content-Type", "Content-Language", "Content-Disposition", "X-Card-Token", "Authorization"}
    assert not {*described, "Proxy-Authorization"} & {*second.headers}
    assert second.headers.get("Content-Length", "0") == "0"
    assert not second.cookies
    assert Payment.objects.count() == 1


def test_headers_that_are_not_stored(client, protect, serve, kept_in):
    """By their names in any case. The rest of the answer is replayed whole."""
    serve(protect(lambda request: answered_with(request, "X-Card-Token"), **OPTIONS))

    first, second = post(client), post(client)

    assert SECRET.encode() not in kept_in()
    assert second.content == first.content
    assert {*first.headers} - {*second.headers} == {"X-Card-Token"}


def answered_with(request, name):
    response = answer(request, {"amount": 1})
    response[name] = SECRET
    return response


def test_headers_that_were_stored_before_are_not_replayed(client, protect, serve):
    """The option came later than the record."""
    serve(protect(card))
    assert post(client)["X-Card-Token"] == SECRET
    serve(protect(card, **OPTIONS))

    second = post(client)

    assert is_replay(second)
    assert "X-Card-Token" not in second
    assert second.json()["number"] == SECRET


@pytest.mark.parametrize("options", [{"store_body": False}, {"record": lambda *_: 1, "replay": lambda *_: None}])
def test_an_answer_without_a_body_is_stored_as_it_is(client, protect, serve, options):
    """There is nothing to leave out, and nothing to render."""

    def handler(request):
        return HttpResponse(status=204, headers={"Content-Type": "text/odd", "X-A": "1"})

    serve(protect(handler, **options))

    first, second = post(client), post(client)

    assert is_replay(second)
    assert {**second.headers} == {**first.headers, "Idempotency-Replayed": "true"}


def test_a_body_that_is_not_stored_has_any_size(client, protect, serve, tmp_path):
    """`max_body` is for what is stored. A file is not read for it."""
    path = tmp_path / "export.bin"
    path.write_bytes(bytes(5000))

    def file(request):
        return FileResponse(path.open("rb"))

    serve(protect(file, store_body=False, max_body=10))

    first = post(client)
    content = b"".join(first.streaming_content)
    assert len(content) == 5000
    second = post(client)
    assert is_replay(second)
    assert (second.content, second["Content-Length"]) == (b"", "0")


def test_a_stream_is_refused_all_the_same(browser, serve):
    """Its body is made after COMMIT, by code that the transaction does not cover."""
    browser.raise_request_exception = True
    serve(plain(lambda request: StreamingHttpResponse(["a"]), store_body=False))

    with pytest.raises(UnstorableResponse, match="StreamingHttpResponse"):
        post(browser)


# --- record, replay ---

ALLOWED: dict[str, Any] = {}


def reference(request, response):
    """Of the payment, as JSON."""
    return {"payment": Payment.objects.get().pk, "status": response.status_code}


def render(request, stored):
    """The payment as it is now, for whom `ALLOWED` lets see it."""
    if "error" in ALLOWED:
        raise ALLOWED["error"]
    if "response" in ALLOWED:
        return ALLOWED["response"](request)
    payment = Payment.objects.get(pk=stored["payment"])
    response = answer(request, {"id": payment.pk, "number": "****", "reference": payment.reference}, status=200)
    response["X-Rendered"] = "anew"
    return response


@pytest.fixture(autouse=True)
def allowed():
    ALLOWED.clear()
    yield ALLOWED
    ALLOWED.clear()


def test_a_reference_is_stored_and_rendered_anew(client, protect, serve, kept_in):
    """The retry gets what `replay` renders today, with the first answer's status and location. Nothing runs again."""
    serve(protect(card, record=reference, replay=render, **OPTIONS))

    first = post(client)
    Payment.objects.update(reference="closed")
    second = post(client)

    assert first.json()["number"] == SECRET
    assert SECRET.encode() not in kept_in()
    assert is_replay(second)
    assert second.json() == {"id": first.json()["id"], "number": "****", "reference": "closed"}
    assert (second.status_code, second.reason_phrase) == (201, "Created")
    assert (second["Location"], second["X-Rendered"]) == (first["Location"], "anew")
    assert "application/json" in second["Content-Type"]
    assert not {"ETag", "Content-Disposition", "X-Card-Token", "Authorization"} & {*second.headers}
    assert Payment.objects.count() == 1


REFUSALS = {
    "Django's PermissionDenied": ({"error": PermissionDenied("not yours any more")}, 403),
    "DRF's PermissionDenied": ({"error": drf_exceptions.PermissionDenied("not yours any more")}, 403),
    "Http404": ({"error": Http404("gone")}, 404),
    "a defect": ({"error": ValueError("broken")}, 500),
    "a response": ({"response": lambda request: answer(request, {"detail": "no"}, 403)}, 403),
}


@pytest.mark.parametrize(("today", "status"), REFUSALS.values(), ids=REFUSALS)
def test_today_s_rules_refuse_a_replay(client, edge, protect, serve, allowed, today, status):
    """As the view's own errors do. Nothing runs and nothing is forgotten: when they allow it again, it is replayed."""
    if edge == "plain" and isinstance(today.get("error"), drf_exceptions.APIException):
        pytest.skip("a plain view has no DRF")
    serve(protect(card, record=reference, replay=render))
    assert post(client).status_code == 201

    allowed.update(today)
    with hearing() as heard:
        refused = post(client)
    allowed.clear()

    assert refused.status_code == status
    assert not is_replay(refused)
    assert SECRET not in refused.content.decode()
    if "error" in today:
        assert heard == []
    assert is_replay(post(client))
    assert Payment.objects.count() == 1


def test_a_replay_is_rendered_as_its_request_asks(api, serve):
    """DRF's negotiation, of the retry and not of the first request."""
    serve(
        drf_class(
            card,
            {"record": lambda request, response: b"<b>card</b>", "replay": html_or_json},
            renderer_classes=[JSONRenderer, StaticHTMLRenderer],
        )
    )
    assert post(api, headers={"Accept": "application/json"})["Content-Type"] == "application/json"

    second = post(api, headers={"Accept": "text/html"})

    assert is_replay(second)
    assert second["Content-Type"].startswith("text/html")
    assert second.content == b"<b>card</b>"


def html_or_json(request, stored):
    assert isinstance(stored, bytes)
    return answer(request, stored.decode())


def test_a_reference_commits_with_the_work_or_not_at_all(client, protect, serve):
    """`record` runs in the transaction, after the handler: what it writes is kept with the record."""

    def broken(request, response):
        Payment.objects.create(amount=1, reference="by record")
        if len(seen) < 2:
            seen.append(1)
            raise ValueError("no reference today")
        return 1

    seen = [1]
    serve(protect(card, record=broken, replay=lambda request, stored: answer(request, stored)))

    assert post(client).status_code == 500
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()

    assert post(client).status_code == 201
    assert Payment.objects.count() == 2
    assert post(client).json() == 1


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "it returned None"),
        ((1,), "lists, not tuples"),
        (object(), "not JSON serializable"),
        ("x" * 99, r"at most 50 bytes \(option `max_body`\), not 101"),
    ],
    ids=["None", "tuple", "object", "large"],
)
def test_what_cannot_be_a_reference_is_an_error(client, protect, serve, returned, says):
    """A 500 that names the remedy; the work is rolled back."""
    client.raise_request_exception = True
    serve(protect(card, record=lambda request, response: returned, replay=render, max_body=50))

    with pytest.raises(UnstorableResponse, match=says):
        post(client)
    assert not Payment.objects.exists()


def test_a_reference_is_never_sent_as_an_answer(client, protect, serve):
    """A view that has lost its `replay` fails, and runs nothing."""
    serve(protect(card, record=reference, replay=render))
    post(client)
    serve(protect(card))
    client.raise_request_exception = True

    with pytest.raises(PolicyError, match="has no option `replay`"):
        post(client)
    assert Payment.objects.count() == 1


def test_replay_must_return_a_response(client, protect, serve, allowed):
    """Anything else would be an error without a name, far from here."""
    serve(protect(card, record=reference, replay=render))
    post(client)
    allowed["response"] = lambda request: {"id": 1}
    client.raise_request_exception = True

    with pytest.raises(PolicyError, match="'replay' must return a response, not a dict"):
        post(client)


def test_an_operators_answer_is_not_rendered(client, protect, serve):
    """It has a body of its own. So has what was stored before the view got its options."""
    serve(protect(card, record=reference, replay=render))
    post(client)
    IdempotencyRecord.objects.update(status=0)
    settle(IdempotencyRecord.objects.get(), operator_record(201, "application/json", b'{"by":"hand"}', max_body=99))

    assert post(client).json() == {"by": "hand"}


def test_a_replay_costs_no_statement_more(client, protect, serve):
    """Than what `replay` itself asks."""
    serve(protect(card, record=lambda *_: 1, replay=lambda request, stored: answer(request, stored)))
    post(client)
    serve(protect(card, store_body=False))
    post(client, key="key-2")

    def statements(key):
        with CaptureQueriesContext(connection) as captured:
            assert is_replay(post(client, key=key))
        return len(captured)

    assert statements("key-2") > 0
    left_out = statements("key-2")
    serve(protect(card, record=lambda *_: 1, replay=lambda request, stored: answer(request, stored)))
    assert statements("key-1") == left_out
    assert {row.record.instead for row in IdempotencyRecord.objects.all()} == {LEFT_OUT, "json"}
