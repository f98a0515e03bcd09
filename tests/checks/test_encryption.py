"""E021 and W025: keys that are wrong, and keys that were taken out too early."""

from io import StringIO

import pytest
from django.core.management import call_command

from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores.database import DatabaseStore
from tests.app.serving import post
from tests.encryption.conftest import NEW, OLD, KeysByScope, encrypt, paying, serve
from tests.operations.records import record

__all__ = ["encrypt", "paying", "serve"]


def test_E021(check, encrypt):
    """A bad key is named, by its id alone; tests/encryption has all that can be bad."""
    encrypt({"2026-11": "short"})

    [message] = check()

    assert message.id == "django_idempotency.E021"
    assert "IDEMPOTENCY['ENCRYPTION']['KEYS']['2026-11'] must be 32 random bytes in base64" in message.msg
    assert "short" not in message.msg


class Plain(DatabaseStore):
    """A store that was written before there was encryption."""

    encrypts = False


def test_E002_of_a_store_that_keeps_answers_in_clear(check, ids, settings):
    """Its answers would be the ones in clear, and nobody would know."""
    stores = {"plain": {"BACKEND": f"{__name__}.Plain"}}
    settings.IDEMPOTENCY = {"STORES": stores}
    assert "E002" not in ids()
    settings.IDEMPOTENCY = {"STORES": stores, "ENCRYPTION": {"KEYS": {"a": OLD}}}

    [message] = check()

    assert message.id == "django_idempotency.E002"
    assert "keeps answers in clear" in message.msg


def check(**options):
    err = StringIO()
    call_command("check", deploy=True, databases=["default"], stdout=err, stderr=err, **options)
    return err.getvalue()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("paying")
def test_W025(api, encrypt):
    """A key that was taken out while it is needed is named, with what still needs it; otherwise there is silence."""
    encrypt({"old": OLD})
    post(api, key="1")
    post(api, key="2")
    encrypt({"new": NEW, "old": OLD})
    post(api, key="3")
    assert "W025" not in check()

    encrypt({"new": NEW})
    assert "2 of its records and requests are encrypted with the key 'old'" in check()
    encrypt(None)
    assert check().count("django_idempotency.W025") == 2
    encrypt(KeysByScope())
    assert "W025" not in check()
    encrypt({"new": NEW})
    IdempotencyRecord.objects.filter(key="1").delete()
    IdempotencyRecord.objects.filter(key="2").update(expires_at=record(expires_in=-1).expires_at)
    assert "W025" not in check()
