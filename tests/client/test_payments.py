"""The sample project under gunicorn, behind a proxy that loses requests and answers."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from django_idempotency.client import KeyJar, new_key
from django_idempotency.client.calls import Call
from tests.client.lossy import WAYS, LossyProxy
from tests.client.payments import pay, shop

ROOT = Path(__file__).resolve().parents[2]
COUNT = 45  # payments; the manual's page has the figures of 1,000
TIMEOUT = 60  # seconds

pytestmark = pytest.mark.slow


def test_each_payment_is_made_once_and_its_clients_learn_its_number(tmp_path):
    """0 doubled, 0 given up wrongly, with a quarter of all exchanges lost in every way."""
    outcome = pay(COUNT, tmp_path)

    assert set(outcome.lost) == set(WAYS)
    assert {reference: len(ids) for reference, ids in outcome.made.items()} == dict.fromkeys(outcome.told, 1)
    assert len(outcome.made) == COUNT
    assert {reference: set(told) for reference, told in outcome.told.items()} == {
        reference: set(ids) for reference, ids in outcome.made.items()
    }


def test_a_client_with_a_new_key_for_each_attempt_is_found_out(tmp_path, monkeypatch):
    """The proof can fail."""
    after = Call.after

    def with_a_new_key(call, answer):
        call.headers[call.policy.header] = new_key()
        return after(call, answer)

    monkeypatch.setattr(Call, "after", with_a_new_key)

    assert pay(COUNT, tmp_path).doubled


@pytest.mark.kill
def test_a_process_that_is_killed_before_the_answer_gets_it_when_it_is_started_again(tmp_path):
    """The key was in the jar before the request was sent."""
    jar = tmp_path / "keys"
    with shop(tmp_path) as api, closing(LossyProxy(*api.server.address)) as proxy:
        command = [sys.executable, "-m", "tests.client.paying", str(jar), f"http://127.0.0.1:{proxy.port}{api.path}"]
        command.append(api.headers["Authorization"])
        proxy.next_way = "answer, held"
        with subprocess.Popen(command, cwd=ROOT) as first:
            assert proxy.holding.wait(TIMEOUT)
            first.kill()
        assert KeyJar(jar).unfinished() == ["pay order 17"]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT)
        ((charge,),) = api.made().values()

    assert json.loads(second.stdout) == {"status": 201, "id": charge, "replayed": "true"}
    assert KeyJar(jar).unfinished() == []
