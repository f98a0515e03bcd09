"""Phased mode: each phase commits with its recovery point, and a retry goes on behind the last one."""

import pytest

from django_idempotency.exceptions import NothingDone
from django_idempotency.models import IdempotencyRecord, PhasedRun
from tests.app.serving import is_replay, post
from tests.phased.conftest import ALL, effects

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_run_leaves_an_ordinary_record(pay, client):
    """What is left when the run has ended is what an atomic request leaves."""
    script = pay()
    first, second = post(client), post(client)

    assert first.status_code == 201
    assert is_replay(second)
    assert second.content == first.content
    assert script.calls == effects() == ALL
    assert IdempotencyRecord.objects.get().status == 201
    assert not PhasedRun.objects.exists()


@pytest.mark.parametrize("failing", ALL)
def test_a_retry_resumes_behind_the_last_finished_phase(pay, client, failing):
    """What is finished does not run again, and answers as it did; what failed was rolled back."""
    script = pay()
    script.fails[failing] = TimeoutError("away")
    first, second = post(client), post(client)

    assert (first.status_code, second.status_code) == (500, 201)
    assert effects() == ALL
    assert script.calls.count(failing) == 2
    assert all(script.calls.count(name) == 1 for name in ALL if name != failing)
    assert script.keys[failing][0] == script.keys[failing][1]
    assert second.json()["results"][0]["call"] == (2 if failing == "order" else 1)
    assert is_replay(post(client))


def test_nothing_was_done_frees_the_key(pay, client):
    """Before the first phase is finished, a refusal leaves nothing, and the client may mend its payload."""
    script = pay()
    script.fails["order"] = NothingDone()

    assert post(client).status_code == 500
    assert not IdempotencyRecord.objects.exists()
    assert not PhasedRun.objects.exists()
    assert post(client, {"amount": 11}).status_code == 201
