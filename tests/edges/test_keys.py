"""The key as clients send it, and requests that a key is not for."""

import pytest
from rest_framework.decorators import api_view

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import drf, is_replay, plain, post
from tests.app.views import answer, make_payment

pytestmark = pytest.mark.django_db

# As a header brings them; tests/unit/test_keys.py has every spelling, right and wrong.
MALFORMED = {"empty": "", "two keys": "abc, def", "256 characters": "k" * 256, "NUL": "a\0b", "non-ASCII": "caf\xe9"}


@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_key_is_400_and_nothing_runs(protect, client, serve, key):
    """The request is refused before its handler, with the code that says why."""
    serve(protect(lambda request: pytest.fail("the handler ran")))

    response = client.post("/act/", {"amount": 10}, HTTP_IDEMPOTENCY_KEY=key)

    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "key-invalid"
    assert not IdempotencyRecord.objects.exists()


SPELLINGS = {"token and string": ("8e03", '"8e03"'), "parameters, white space": ("8e03", ' "8e03"; v=1;x;y="z"\t')}


@pytest.mark.parametrize(("one", "other"), SPELLINGS.values(), ids=SPELLINGS)
def test_a_string_and_a_token_spell_the_same_key(protect, client, serve, one, other):
    """What the IETF draft asks for and what most clients send are one key."""
    serve(protect(make_payment))

    first, second = post(client, key=one), post(client, key=other)

    assert first.status_code == 201
    assert is_replay(second)
    assert second.content == first.content


DIFFERENT = {
    "case": ("abc", "ABC"),
    "trailing space": ('"abc"', '"abc "'),
    "leading space": ('"abc"', '" abc"'),
    "one character": ("abc-1", "abc-2"),
    "leading zero": ("1", "01"),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_keys_compare_byte_for_byte(protect, client, serve, one, other):
    """No collation merges two keys."""
    serve(protect(make_payment))

    assert [is_replay(post(client, key=key)) for key in (one, other, one, other)] == [False, False, True, True]
    assert Payment.objects.count() == 2


def test_a_key_with_spaces_and_commas_is_welcome_in_a_string(protect, client, serve):
    """A quoted string may hold any printable ASCII."""
    serve(protect(make_payment))

    assert post(client, key='"order 7, item 2"').status_code == 201
    assert IdempotencyRecord.objects.get().key == "order 7, item 2"


def test_a_request_without_a_key_runs_each_time(protect, client, serve):
    """Where no key is required, its absence means what it means today."""
    serve(protect(make_payment))

    for _ in range(2):
        response = post(client, key=None)
        assert response.status_code == 201
        assert "Idempotency-Replayed" not in response

    assert Payment.objects.count() == 2
    assert not IdempotencyRecord.objects.exists()


def test_a_required_key_that_is_missing_is_400(protect, client, serve):
    """The error names the header."""
    serve(protect(make_payment, required=True))

    response = post(client, key=None)

    assert response.status_code == 400
    assert response.json()["code"] == "key-missing"
    assert "Idempotency-Key" in response.json()["detail"]
    assert not Payment.objects.exists()


@pytest.mark.parametrize("method", ["get", "put", "delete", "head", "options"])
def test_idempotent_methods_pass_through(edge, client, serve, method):
    """GET, HEAD, OPTIONS, PUT and DELETE are idempotent by definition: a key changes nothing, malformed or not."""
    handles = []

    def handler(request):
        handles.append(request.idempotency)
        return make_payment_of(1, request)

    def make_payment_of(amount, request):
        return answer(request, {"id": Payment.objects.create(amount=amount).pk})

    if edge == "plain":
        serve(plain(handler, required=True))
    else:
        methods = ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"]
        serve(api_view(methods)(idempotent(required=True)(handler)))

    for key in ("abc", "not a key", None):
        headers = {} if key is None else {"Idempotency-Key": key}
        assert getattr(client, method)("/act/", headers=headers).status_code == 201

    assert Payment.objects.count() == 3
    assert handles == [None] * 3
    assert not IdempotencyRecord.objects.exists()


def test_another_method_is_another_operation(api, serve):
    """POST and PATCH of one route with one key are two actions."""
    serve(drf(make_payment))

    assert post(api).status_code == 201
    response = api.patch("/act/", {"amount": 10}, headers={"Idempotency-Key": "key-1"})

    assert response.status_code == 201
    assert not is_replay(response)
    assert Payment.objects.count() == 2
