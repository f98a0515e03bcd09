"""A receipt tells what became of a key, to whom a retry would be answered, and changes nothing."""

import json
from base64 import b64decode
from datetime import timedelta

import pytest
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, JsonResponse
from django.test import Client
from django.urls import path
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.throttling import SimpleRateThrottle

from django_idempotency import fingerprints
from django_idempotency.core.keys import time_ordered_key
from django_idempotency.models import AnswerEnd, DatabaseNow, IdempotencyRecord
from django_idempotency.receipts import receipt
from tests.app.models import Payment
from tests.app.serving import PATH, drf_class, expire, plain, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db

RECEIPTS = path("receipts/", receipt)


def ask(client, key="key-1", url=PATH, method="POST", **headers):
    """The receipt of *key*, which was sent to *url*."""
    keys = {} if key is None else {"Idempotency-Key": key}
    return client.get("/receipts/", {"method": method, "path": url}, headers={**keys, **headers})


def state(client, **options) -> str:
    response = ask(client, **options)
    assert response.status_code == 200, response.content
    return response.json()["state"]


@pytest.fixture
def served(serve, protect):
    """Serve a handler of this edge, and the receipts."""

    def served(handler=make_payment, route="act/", **options):
        serve(RECEIPTS, path(route, protect(handler, **options)))

    return served


def test_never_seen_then_done(served, client):
    """The answer is the one that a retry gets, byte for byte, and asking executes nothing."""
    served()
    assert state(client) == "never_seen"
    assert IdempotencyRecord.objects.count() == 0
    post(client)

    found = ask(client).json()
    replay = post(client)

    assert found["state"] == "done"
    assert found["answer"]["status"] == replay.status_code == 201
    assert found["answer"]["body"].encode() == replay.content
    assert found["answer"]["headers"].items() <= replay.headers.items()  # middleware adds its own to a replay
    assert Payment.objects.count() == 1


def test_another_key_method_or_path_was_never_seen(served, client):
    """What names the identity has to be named as the request had it."""
    served(lambda request, number: make_payment(request), route="act/<int:number>/", methods=("POST", "PATCH"))
    post(client, url="/act/1/")

    assert state(client, url="/act/1/") == "done"
    assert state(client, url="/act/1/", key="key-2") == "never_seen"
    assert state(client, url="/act/1/", method="PATCH") == "never_seen"


@pytest.mark.parametrize(
    "asked", [{"url": "/act/2/"}, {"url": "/act/1/?account=2"}, {"Host": "tenant-a.example"}], ids=str
)
@pytest.mark.parametrize("fingerprint", [None, fingerprints.json()])
def test_another_url_is_refused_as_a_retry_there_would_be(served, client, asked, fingerprint):
    """The guards of one URL do not decide on the answer of another one, which the same key and route may have."""
    served(lambda request, number: make_payment(request), route="act/<int:number>/", fingerprint=fingerprint)
    post(client, url="/act/1/")

    response = ask(client, **{"url": "/act/1/", **asked})

    assert (response.status_code, response.json()["code"]) == (422, "key-reused")
    assert "answer" not in response.json()


def test_strangers_get_none(serve, client, edge):
    """They share one scope, and a key that somebody has seen is no proof of who sent it."""
    serve(RECEIPTS, path("act/", drf_class(make_payment) if edge == "drf" else plain(make_payment)))
    stranger = Client()
    post(stranger)

    response = ask(stranger)

    assert (response.status_code, response.json()["code"]) == (404, "receipt-unavailable")
    assert state(client) == "never_seen"


def test_a_fingerprint_of_the_projects_own(served, client):
    """It says whether URLs are compared, or there are no receipts."""

    def amount(request):
        return b"the same"

    served(lambda request, number: make_payment(request), route="act/<int:number>/", fingerprint=amount)
    post(client, url="/act/1/")
    assert ask(client, url="/act/1/").status_code == 404
    amount.compares_url = False

    assert state(client, url="/act/2/") == "done"


def test_another_caller_has_never_seen_it(served, client, edge, request):
    """A receipt is found in the caller's own scope alone, like a record."""
    served()
    post(client)
    if edge == "drf":
        other = request.getfixturevalue("other_api")
    else:
        other = request.getfixturevalue("client")
        other.force_login(request.getfixturevalue("other_user"))

    assert state(other) == "never_seen"


def test_bytes_that_are_no_text(served, client):
    """They are in `body_base64`."""
    served(lambda request: HttpResponse(b"\xff\xd8\x00", content_type="image/jpeg"))
    post(client)

    answer = ask(client).json()["answer"]

    assert b64decode(answer["body_base64"]) == b"\xff\xd8\x00"
    assert "body" not in answer


def test_an_expired_record_was_never_seen(served, client):
    """Its key is new again."""
    served()
    post(client)
    expire()

    assert state(client) == "never_seen"


def test_a_tombstone_is_expired(served, client):
    """The key stays taken, and the answer is not kept any more."""
    served(tombstone_ttl=timedelta(days=7))
    post(client)
    AnswerEnd.objects.update(ends_at=DatabaseNow())

    assert state(client) == "expired"


def test_an_unsettled_outcome_is_unknown(served, client):
    """As for a retry, which gets 409 `outcome-unknown`."""
    served()
    post(client)
    IdempotencyRecord.objects.update(status=0, head=b"", body=b"")

    assert state(client) == "unknown"
    assert post(client).json()["code"] == "outcome-unknown"


def test_a_record_that_was_changed_is_unknown(served, client):
    """A retry is refused, too."""
    served()
    post(client)
    IdempotencyRecord.objects.update(head=b"no JSON")

    assert state(client) == "unknown"


@pytest.mark.parametrize(("key", "code"), [(None, "key-missing"), ("a b", "key-invalid")])
def test_a_key_is_needed(served, client, key, code):
    """In the header, because URLs are logged."""
    served()

    response = ask(client, key=key)

    assert (response.status_code, response.json()["code"]) == (400, code)


@pytest.mark.parametrize(
    "url", ["//[", "", "act/", "/nowhere/", "https://testserver/act/", "//testserver/act/", "/open/"]
)
def test_no_receipts_for_what_takes_no_key(served, serve, client, url):
    """404, and a view that is not protected is not called."""
    called = []
    serve(RECEIPTS, path("open/", lambda request: called.append(request)))

    response = ask(client, url=url)

    assert (response.status_code, response.json()["code"]) == (404, "receipt-unavailable")
    assert called == []


@pytest.mark.parametrize("options", [{"mode": "observe"}, {"methods": ("PATCH",)}])
def test_no_receipts_for_a_method_that_is_not_protected(served, client, options):
    """Nothing is stored for it."""
    served(**options)

    assert ask(client).status_code == 404


def test_only_get(served, client):
    """A receipt changes nothing."""
    served()

    assert client.post("/receipts/").status_code == 405


def test_it_is_not_cached(served, client):
    """Its state changes."""
    served()

    assert "no-store" in ask(client)["Cache-Control"]


def test_a_revoked_token_gets_no_receipt(serve, api, user):
    """The view's own authentication is asked, and answers as it does."""
    serve(RECEIPTS, path("act/", drf_class(make_payment, permission_classes=[IsAuthenticated])))
    post(api)
    user.auth_token.delete()

    response = ask(api)

    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Token"


def test_permissions_are_todays(serve, api):
    """They see the method and the URL of the request that the key was sent with."""
    seen = []

    class Permission(BasePermission):
        allows = True

        def has_permission(self, request, view):
            seen.append((request.method, request.path, request.query_params.dict(), view.kwargs))
            return self.allows

    serve(RECEIPTS, path("act/<int:number>/", drf_class(lambda r: None, permission_classes=[Permission])))
    assert state(api, url="/act/1/?page=2") == "never_seen"
    assert seen == [("POST", "/act/1/", {"page": "2"}, {"number": 1})]
    Permission.allows = False

    assert ask(api, url="/act/1/").status_code == 403


def test_throttles_count_it(serve, api, settings):
    """As they count a retry."""

    class Once(SimpleRateThrottle):
        rate = "1/day"

        def get_cache_key(self, request, view):
            return "receipts-once"

    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    serve(RECEIPTS, path("act/", drf_class(make_payment, throttle_classes=[Once])))

    assert [ask(api).status_code for _ in range(2)] == [200, 429]


def test_a_replay_guard_decides(served, client):
    """It refuses the receipt as it refuses a replay."""

    def guard(request, record):
        raise PermissionDenied

    served(replay_guard=guard)
    post(client)

    assert ask(client).status_code == 403
    assert state(client, key="key-2") == "never_seen"


def test_a_login_is_required_as_ever(serve, client, browser):
    """A plain view's own guard redirects a stranger."""
    serve(RECEIPTS, path("act/", login_required(plain(make_payment))))
    post(browser)
    assert state(browser) == "done"
    browser.logout()

    assert ask(browser).status_code == 302


def test_what_replay_renders_is_in_the_receipt(served, client):
    """The answer is rendered again, under today's rules; what is stored is a reference."""
    refused = []

    def render(request, reference):
        return JsonResponse({"of": reference}, status=403 if refused else 201)

    served(record=lambda request, response: "reference", replay=render)
    post(client)

    assert json.loads(ask(client).json()["answer"]["body"]) == {"of": "reference"}
    refused.append(True)
    assert ask(client).status_code == 403


@pytest.mark.parametrize("option", ["key", "scope", "operation"])
def test_an_option_that_reads_the_body_is_an_error(served, client, option, edge, caplog):
    """A receipt has none, and a wrong state is worse than no receipt."""

    def read(request):
        return str((request.data if edge == "drf" else json.loads(request.body))["amount"])

    served(**{option: read})
    post(client)

    assert ask(client).status_code == 500
    assert "A receipt is asked for without a body" in caplog.text


def test_a_former_name_is_looked_up(served, client):
    """After a route was renamed."""
    served()
    post(client)
    served(route="pay/", operation_aliases=["POST act/"])

    assert state(client, url="/pay/") == "done"
    assert ask(client, url="/pay/?page=2").status_code == 422


def test_a_script_prefix(served, client):
    """The path is the one that the client sent."""
    served()
    post(client, SCRIPT_NAME="/app")

    response = client.get("/receipts/", {"path": "/app/act/"}, headers={"Idempotency-Key": "key-1"}, SCRIPT_NAME="/app")

    assert response.json()["state"] == "done"


def test_an_old_key_may_ask(served, client):
    """`key_max_age` refuses late requests, and a receipt is none."""
    served(key_max_age=timedelta(days=1))

    assert state(client, key=time_ordered_key(0, bytes(10))) == "never_seen"
