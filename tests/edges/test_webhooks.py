"""The ids of webhooks' senders as keys: `django_idempotency.keys`."""

import json

import pytest

from django_idempotency import keys
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import PATH, is_replay
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db

ID = "evt_1"
SENDERS = {
    "standard_webhooks": (keys.standard_webhooks, {"webhook-id": ID}, {}, "the header webhook-id"),
    "github": (keys.github, {"X-GitHub-Delivery": ID}, {}, "the header X-GitHub-Delivery"),
    "stripe_event": (keys.stripe_event, {}, {"id": ID}, 'the member "id" of its JSON body'),
}


def deliver(client, headers, event, **more):
    body = event if isinstance(event, str) else json.dumps({"amount": 10, **event})
    return client.post(PATH, body, content_type="application/json", headers=headers, **more)


@pytest.mark.parametrize("path", ["code", "dotted path"])
@pytest.mark.parametrize(("key", "headers", "event", "place"), SENDERS.values(), ids=SENDERS)
def test_an_event_takes_effect_once(client, protect, serve, key, headers, event, place, path):
    """It is known by its id alone, whatever else a redelivery has."""
    name = f"django_idempotency.keys.{key.__name__}"
    serve(protect(make_payment, key=key if path == "code" else name, required=True, fingerprint=lambda request: b""))

    first = deliver(client, headers, event)
    second = deliver(client, headers | {"webhook-timestamp": "2"}, {**event, "pending_webhooks": 2})

    assert (first.status_code, is_replay(first), is_replay(second)) == (201, False, True)
    assert Payment.objects.count() == 1
    assert IdempotencyRecord.objects.get().key == ID


@pytest.mark.parametrize(("key", "headers", "event", "place"), SENDERS.values(), ids=SENDERS)
def test_an_event_without_an_id_is_refused(client, protect, serve, key, headers, event, place):
    """The refusal says where it was looked for; the header of other clients does not help."""
    serve(protect(make_payment, key=key, required=True))

    refused = deliver(client, {"Idempotency-Key": "1"} | dict.fromkeys(headers, " "), dict.fromkeys(event, ""))

    assert (refused.status_code, refused.json()["code"]) == (400, "key-missing")
    assert place in refused.json()["detail"]
    assert not Payment.objects.exists()


@pytest.mark.parametrize("body", ["", "{", "[]", "1", "null", '{"id": 1}', '{"id": null}', "[" * 100_000, "\xff"])
def test_what_is_no_event_has_no_id(client, protect, serve, body):
    """A body of any other form, too deep or of other bytes."""
    serve(protect(make_payment, key=keys.stripe_event, required=True))

    assert deliver(client, {}, body).json()["code"] == "key-missing"


def test_a_key_of_the_projects_own(client, protect, serve):
    """Nobody says that it is missing in a header which is not looked at."""
    serve(protect(make_payment, key=lambda request: None, required=True))

    assert "Idempotency-Key" not in deliver(client, {}, {}).json()["detail"]
