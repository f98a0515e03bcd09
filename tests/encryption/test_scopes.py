"""Keys of the project's own, one for each scope: they can be dropped, and they may be out of reach."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.erasing import erase
from django_idempotency.operations.locations import database
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.encryption.conftest import OLD
from tests.encryption.test_records import assert_refused

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("paying")]


def erase_by_key(user, *arguments):
    out = StringIO()
    call_command("idempotency_erase", f"--scope=auth.user:{user.pk}", "--by-key", *arguments, stdout=out)
    return out.getvalue()


def test_a_scope_without_its_key_is_erased_for_good(api, other_api, user, keys, caplog):
    """Its rows cannot be read, nothing of it runs again, and others keep their answers."""
    post(api)
    post(other_api)
    assert len(set(keys.keys.values())) == 2

    assert "Destroyed the keys" in erase_by_key(user)

    assert_refused(api, caplog)
    assert is_replay(post(other_api))


def test_keys_may_be_asked_of_the_records_database(api, keys, monkeypatch):
    """On its connection: a replay's transaction is over before."""
    monkeypatch.setattr(keys, "check", Payment.objects.count)

    post(api)
    assert is_replay(post(api))


def test_only_whole_scopes_have_keys(user, keys, encrypt):
    with pytest.raises(CommandError, match="without --dry-run"):
        erase_by_key(user, "--dry-run")
    keys.is_away = True
    with pytest.raises(CommandError, match="could not be destroyed"):
        erase_by_key(user)
    encrypt({"a": OLD})
    with pytest.raises(CommandError, match="`drop`"):
        erase_by_key(user)


def test_erasing_records_needs_no_key(api, user, keys):
    """The lost key of a scope does not keep its records from being erased. Their keys are new then."""
    post(api)
    keys.keys.clear()
    assert erase(database("default"), f"auth.user:{user.pk}").count == 1
    assert post(api).status_code == 201


def test_keys_that_cannot_be_asked_refuse_before_the_handler_or_roll_it_back(api, keys):
    """A replay is 503; a first execution ends as one whose record could not be written."""
    post(api)
    keys.is_away = True

    refused = post(api)
    assert (refused.status_code, refused.json()["code"], "Retry-After" in refused) == (503, "store-unavailable", True)
    assert post(api, key="key-2").status_code == 500
    assert (Payment.objects.count(), IdempotencyRecord.objects.count()) == (1, 1)

    keys.is_away = False
    assert is_replay(post(api))
    assert post(api, key="key-2").status_code == 201
