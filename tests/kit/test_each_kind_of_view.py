"""The kit proves each kind of view that the package supports: those of the test project, by their routes."""

import pytest

from django_idempotency.testing import Call, assert_idempotent, assert_repeatable, replayed

pytestmark = pytest.mark.django_db

PROTECTED = [
    "/pay/",
    "/plain/",
    "/plain-class/",
    "/plain-method/",
    "/method/",
    "/method/7/",
    "/generic/",
    "/mixed/",
    "/mixed.json",
    "/api/payments/",
    "/api/payments/transfer/",
    "/api/payments/1/refund/",
    "/api/payments/1/notes/short/",
    "/api/actions/1/capture/",
    "/v3/by-path/",
    "/v1/payments/",
]


@pytest.mark.parametrize("path", PROTECTED)
def test_a_post_is_idempotent(path, user, other_user):
    """Decorated functions and methods, mixins, actions, versions."""
    proof = assert_idempotent(Call.post(path, {"amount": 10}, user=user), other_user=other_user)

    assert len(proof.proved) + len(proof.not_tried) == 7
    assert proof.proved[0].startswith("a retry after an exception")


@pytest.mark.parametrize("path", ["/api/payments/1/notes/short/", "/api/payments/1/refund/"])
def test_a_patch_is_idempotent(path, user, other_user):
    """As a POST is."""
    assert_idempotent(Call.patch(path, {"amount": 10}, user=user), other_user=other_user)


def test_a_resource_is_repeatable(user):
    """What a ModelViewSet makes of the other verbs."""
    created = Call.post("/api/payments/", {"amount": 10}, user=user)(None)
    path = f"/api/payments/{created.json()['id']}/"

    assert_repeatable(Call.get(path, user=user))
    assert_repeatable(Call.options(path, user=user), times=2)
    assert_repeatable(Call.put(path, {"amount": 11}, user=user))
    assert_repeatable(Call.delete(path, user=user))


def test_a_clients_requests_are_replayed(api):
    """The token that it sends decides whose keys they are."""
    with replayed():
        for path in PROTECTED:
            assert api.post(path, {"amount": 10}).status_code == 201
