"""`django_idempotency.moving`: a request has the name and the fingerprint that the real package has written for it."""

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.test import RequestFactory

from django_idempotency import moving
from tests.moving import captured
from tests.moving.captured import ANSWERED, BODIES, KILLED


def request_of(key, **extra):
    request = RequestFactory().post(
        "/moved/", BODIES[key], content_type="application/json", headers={"Authorization": f"Token {captured.TOKEN}"}
    )
    vars(request).update(user=User(pk=captured.USER), **extra)
    return request


@pytest.mark.parametrize("key", [ANSWERED, KILLED])
def test_the_names_and_fingerprints_are_the_packages_own(key):
    """Their digests, of real runs."""
    request = request_of(key)
    found = {
        "drf-idempotency": moving.drf_idempotency(request, key),
        "drf-idempotencykey": moving.drf_idempotencykey(request, key),
        "djangorestframework-idempotency-key": moving.djangorestframework_idempotency_key(request, key),
        "idemkit": moving.idemkit(request, key, scope=captured.IDEMKIT_SCOPE),
    }

    assert {name: each.package for name, each in found.items()} == {name: name for name in found}
    assert {name: (each.name, each.fingerprint) for name, each in found.items()} == {
        "drf-idempotency": (key, captured.DRF_IDEMPOTENCY[key]["fingerprint"].encode()),
        "drf-idempotencykey": (key, captured.DIGESTS[key]),
        "djangorestframework-idempotency-key": (key, captured.DIGESTS[key]),
        "idemkit": (captured.IDEMKIT[key]["effective_key"], captured.IDEMKIT[key]["fingerprint"].encode()),
    }
    assert found["drf-idempotencykey"].scope == f"auth.user:{captured.USER}"


def test_one_package_has_everything_in_the_name():
    assert moving.django_idempotency_key(request_of(ANSWERED), ANSWERED).name == captured.CACHE_KEY


def test_a_uuid_is_one_however_it_is_spelt():
    """As for the two packages, which parse it. Anything else they refuse, so there is no record."""
    request = request_of(ANSWERED)
    for recipe in (moving.drf_idempotencykey, moving.djangorestframework_idempotency_key):
        assert recipe(request, f"{{{ANSWERED.upper()}}}").name == ANSWERED
        assert recipe(request, "order-1") is None


def test_a_stranger_has_no_record_of_a_user():
    request = request_of(ANSWERED)
    request.user = SimpleNamespace(is_authenticated=False)

    assert moving.drf_idempotencykey(request, ANSWERED) is None


def test_a_name_that_no_record_can_have_is_none():
    assert moving.drf_idempotency(request_of(ANSWERED), "k" * 256) is None


# A request, and another one that is the same to idemkit.
SAME = [
    ({"path": "/moved/"}, {"path": "/moved//"}),
    ({"path": "/m%2fx"}, {"path": "/m%2Fx"}),
    ({"path": "/moved/?b=1&a=2"}, {"path": "/moved/?a=2&b=1"}),
    ({"data": '{"a": 1, "b": "é"}'}, {"data": '{"b":"é","a":1}'}),
    ({"data": "a=1&b=2", "content_type": moving.URLENCODED}, {"data": "b=2&a=1", "content_type": moving.URLENCODED}),
    ({"key": '"k\\"1"'}, {"key": 'k"1'}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_idemkit_compares_values(one, other):
    """Paths, queries, JSON and forms in its normal form, and keys without their quotes."""

    def moved(path="/moved/", data="{}", content_type="application/json", key="k-1"):
        return moving.idemkit(RequestFactory().generic("POST", path, data, content_type), key)

    assert moved(**one) == moved(**other) != moved(data="[]")


def test_a_body_that_is_not_what_it_says_is_compared_as_it_is():
    request = RequestFactory().generic("POST", "/moved/", "{", "application/json")

    assert moving.idemkit(request, "k-1") != moving.idemkit(RequestFactory().post("/moved/"), "k-1")
