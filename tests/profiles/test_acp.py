"""
`profiles.acp`, by the published text of the Agentic Commerce Protocol: its RFC "Agentic Checkout", section 6, of
2026-02-13, and the error examples of version 2026-04-17.
"""

import json

import pytest
from django.http import JsonResponse
from django.urls import path

from django_idempotency import Policy, idempotent, profiles
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR, drf, post

pytestmark = pytest.mark.django_db

# 6.1 and 6.4, word for word.
KEY_REQUIRED = {
    "type": "invalid_request",
    "code": "idempotency_key_required",
    "message": "Idempotency-Key header is required on all POST requests",
}
CONFLICT = {
    "type": "invalid_request",
    "code": "idempotency_conflict",
    "message": "Idempotency-Key has already been used with a different request body",
}
IN_FLIGHT = {
    "type": "invalid_request",
    "code": "idempotency_in_flight",
    "message": "A request with this Idempotency-Key is currently being processed",
}
ITEMS = {"items": [{"id": "item_123", "quantity": 1}, {"id": "item_456", "quantity": 2}]}


def checkout(request, name=""):
    """A session, or a change of the session *name*."""
    data = request.data if hasattr(request, "data") else json.loads(request.body)
    if data.get("fails"):
        return JsonResponse({"type": "processing_error", "code": "failed", "message": "Try again."}, status=500)
    payment = Payment.objects.create(amount=1, reference=name[:40])
    return JsonResponse({"id": f"cs_{payment.pk}", "status": "ready_for_payment"}, status=200 if name else 201)


@pytest.fixture
def sessions(serve, protect):
    """The two endpoints of sessions, under the profile."""
    view = protect(checkout, **profiles.acp())
    serve(path("checkout_sessions", view), path("checkout_sessions/<str:name>", view))


def create(client, body=None, *, url="/checkout_sessions", key="idempotency_key_123", **extra):
    return post(client, ITEMS if body is None else body, url, key=key, **extra)


def raw(client, body: str):
    return client.post(
        "/checkout_sessions", body, content_type="application/json", headers={"Idempotency-Key": "idempotency_key_123"}
    )


@pytest.mark.usefixtures("sessions")
class TestSection6:
    """One test for each sentence with MUST or SHOULD, in its order."""

    def test_6_1_a_request_without_a_key(self, client):
        """It is rejected with 400 and the published error."""
        response = create(client, key=None)

        assert (response.status_code, response.json()) == (400, KEY_REQUIRED)

    def test_6_1_an_opaque_string_of_255_characters(self, client):
        """One more is an error of the published shape."""
        assert create(client, key="k" * 255).status_code == 201
        response = create(client, key="k" * 256)

        assert response.status_code == 400
        assert (response.json()["type"], response.json()["code"]) == ("invalid_request", "key_invalid")

    def test_6_1_keys_belong_to_caller_and_path(self, client):
        """The same key at two endpoints, and at two sessions of one route, is two actions."""
        urls = ["/checkout_sessions", "/checkout_sessions/cs_1", "/checkout_sessions/cs_2"]

        responses = [create(client, url=url) for url in urls * 2]

        assert [is_replayed(response) for response in responses] == [False] * 3 + [True] * 3
        assert Payment.objects.count() == 3

    @pytest.mark.parametrize(
        ("first", "second", "same"),
        [
            ('{"a": 1, "b": [1, 2]}', '{ "b": [1,2], "a": 1 }', True),  # different key ordering
            ('{"a": null}', "{}", False),  # null or absent
            ('{"a": 1.0}', '{"a": 1}', True),  # trailing zeros
            ('{"a": 10.50}', '{"a": 10.5}', True),
            ('{"a": 1e2}', '{"a": 100}', True),
            ('{"a": [1, 2]}', '{"a": [2, 1]}', False),  # array element ordering
            ('{"a": "1.0"}', '{"a": "1"}', False),  # strings are no numbers
            ('{"a": {"ext": 1}}', '{"a": {"ext": 2}}', False),  # 6.7: fields of an extension
        ],
    )
    def test_6_2_semantic_equality_of_the_body(self, client, first, second, same):
        """The table, row by row."""
        raw(client, first)
        response = raw(client, second)

        assert is_replayed(response) is same
        if not same:
            assert (response.status_code, response.json()) == (422, CONFLICT)

    def test_6_2_headers_are_excluded(self, client):
        """Other media type parameters, language and preconditions are the same request."""
        create(client)
        headers = {"Accept-Language": "en-US", "If-Match": '"1"', "Request-Id": "request_id_2"}
        key = {"Idempotency-Key": "idempotency_key_123"}

        response = client.post(
            "/checkout_sessions",
            json.dumps(ITEMS),
            content_type="application/json; charset=utf-8",
            headers=headers | key,
        )

        assert is_replayed(response)

    @pytest.mark.parametrize("url", ["/checkout_sessions", "/checkout_sessions/cs_1"])
    def test_6_3_the_original_response(self, client, url):
        """Of creates and updates: the same status and body, marked, and no side effect again."""
        first, second = create(client, url=url), create(client, url=url)

        assert (second.status_code, second.content) == (first.status_code, first.content)
        assert "Idempotent-Replayed" not in first
        assert second["Idempotent-Replayed"] == "true"
        assert Payment.objects.count() == 1

    def test_3_1_the_key_is_echoed(self, client):
        """On all answers to POST: first, replayed and refused."""
        responses = [create(client), create(client), create(client, {"items": []})]

        assert [response.status_code for response in responses] == [201, 201, 422]
        assert {response["Idempotency-Key"] for response in responses} == {"idempotency_key_123"}

    def test_6_5_a_server_error_is_not_kept(self, client):
        """The retry is a fresh request."""
        assert [create(client, {"fails": True}).status_code for _ in range(2)] == [500, 500]
        assert create(client).status_code == 201


def is_replayed(response) -> bool:
    return response.headers.get("Idempotent-Replayed") == "true"


@pytest.mark.skipif(VENDOR == "sqlite", reason="a duplicate waits for SQLite's one writer")
@pytest.mark.django_db(transaction=True)
def test_6_4_a_request_in_flight(serve, api, gate, background, slow_payment):
    """409 with the published error, and `Retry-After` in seconds."""
    serve(path("checkout_sessions", drf(slow_payment, **profiles.acp())))
    first = background(create, api, {"amount": 1})
    gate.reached()

    response = create(api, {"amount": 1})
    gate.open()

    assert (response.status_code, response.json()) == (409, IN_FLIGHT)
    assert response["Retry-After"] == "1"
    assert response["Idempotency-Key"] == "idempotency_key_123"
    assert first.result(TIMEOUT).status_code == 201


def test_6_6_keys_are_kept_for_24_hours():
    """At least; after that the key is new."""
    options = profiles.acp()

    assert options["ttl"].total_seconds() >= 24 * 60 * 60
    assert "tombstone_ttl" not in options


def test_a_path_that_no_column_takes(serve, browser):
    """It is told apart from another one by its digest."""
    serve(path("checkout_sessions/<str:name>", idempotent(**profiles.acp())(checkout)))
    urls = [f"/checkout_sessions/{'x' * 300}{end}" for end in "ab"]

    responses = [create(browser, url=url) for url in urls * 2]

    assert [is_replayed(response) for response in responses] == [False, False, True, True]


def test_as_a_setting(serve, api, settings):
    """Names in capitals; a view's own options win."""
    settings.IDEMPOTENCY = {**profiles.as_setting(profiles.acp()), "STORE": "default"}
    serve(drf(checkout, replayed_header="Replayed"))

    assert post(api, key=None).json() == KEY_REQUIRED
    assert [post(api).headers.get("Replayed") for _ in range(2)] == [None, "true"]


@pytest.mark.parametrize("profile", [profiles.stripe, profiles.acp])
def test_as_a_policy(profile):
    """Each option is one of ours, with a value that it takes."""
    assert Policy(**profile()).options.keys() == profile().keys()
