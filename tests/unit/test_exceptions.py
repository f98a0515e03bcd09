"""The errors: what they tell the client, and what they do not."""

import inspect

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_idempotency import exceptions
from django_idempotency.exceptions import IdempotencyError, PolicyError, Refusal

REFUSALS = {
    "KeyMissing": (400, "key-missing", None),
    "KeyInvalid": (400, "key-invalid", None),
    "KeyExpired": (400, "key-expired", None),
    "KeyIgnored": (400, "key-ignored", None),
    "BodyIncomplete": (400, "body-incomplete", None),
    "LengthRequired": (411, "length-required", None),
    "KeyReused": (422, "key-reused", None),
    "RequestInProgress": (409, "request-in-progress", 1),
    "OutcomeUnknown": (409, "outcome-unknown", None),
    "StoreUnavailable": (503, "store-unavailable", 5),
    "TryAgain": (503, "try-again", 1),
    "ReceiptUnavailable": (404, "receipt-unavailable", None),
}


def classes():
    return {
        name: value
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and value.__module__ == exceptions.__name__
    }


def test_every_error_is_exported_and_has_one_base():
    """`except IdempotencyError` catches all of them, and `__all__` names all of them."""
    assert set(exceptions.__all__) == set(classes())
    assert all(issubclass(error, IdempotencyError) for error in classes().values())


def test_the_hierarchy_at_the_top_of_the_module_is_complete():
    """The drawing names each class."""
    assert all(name in exceptions.__doc__ for name in classes())


def test_every_refusal_is_listed_here():
    """A new one must be added to the table above."""
    assert {name for name, error in classes().items() if issubclass(error, Refusal) and error is not Refusal} == set(
        REFUSALS
    )


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_status_code_title_and_retry(name):
    """These are the contract with clients."""
    error = getattr(exceptions, name)
    status, code, retry_after = REFUSALS[name]

    assert (error.status, error.code, error.retry_after) == (status, code, retry_after)
    assert error.title.endswith(".")


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_problem_details(name):
    """RFC 9457, with a type that a client can tell apart and a page where there is one."""
    refusal = getattr(exceptions, name)()
    problem = refusal.problem()

    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert problem["type"] == f"urn:django-idempotency:{refusal.code}"
    assert problem["status"] == refusal.status
    assert refusal.problem("https://api.example/keys")["type"] == f"https://api.example/keys#{refusal.code}"


@pytest.mark.parametrize("name", REFUSALS)
def test_the_default_detail_is_one_sentence_for_the_client(name):
    """It comes from the docstring, is free of line breaks, and knows nothing of the other request."""
    detail = str(getattr(exceptions, name)())

    assert detail
    assert "\n" not in detail
    assert "  " not in detail


def test_a_detail_of_ones_own_wins():
    """An edge says which header it missed."""
    assert exceptions.KeyMissing("Send X-Key.").problem()["detail"] == "Send X-Key."


def test_a_mis_configuration_is_djangos():
    """Whoever catches ImproperlyConfigured catches it."""
    assert issubclass(PolicyError, ImproperlyConfigured)
