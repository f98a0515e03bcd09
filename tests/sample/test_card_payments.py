"""Card payments: the work is at the gateway, the keys are in Redis, no transaction covers either."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from django.core.cache import caches

from django_idempotency.models import IdempotencyRecord
from sample_project.payments import cards
from sample_project.payments.models import Charge

PAYMENT = {"amount": 5000, "currency": "EUR", "card": "tok_visa", "reference": "top-up 1"}


@pytest.fixture
def path(account):
    return f"/api/accounts/{account.pk}/card-payments/"


@pytest.fixture
def nowhere():
    """The address of a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.mark.usefixtures("redis")
class TestKeys:
    """What a caller gets while both servers are there."""

    def test_a_retry_gets_the_first_answer(self, post, path, gateway):
        """The gateway is asked once; the key is kept in Redis, and in no row."""
        first = post(path, PAYMENT, key="k-1")
        again = post(path, PAYMENT, key="k-1")

        assert (first.status_code, first.json()["status"]) == (201, "succeeded")
        assert (again.status_code, again.content, again["Idempotency-Replayed"]) == (201, first.content, "true")
        assert [payment["asked"] for payment in gateway.listed()] == [1]
        assert not IdempotencyRecord.objects.exists()
        assert list(caches["default"].keys("*"))

    def test_a_decline_is_an_answer(self, post, path, gateway):
        declined = post(path, {**PAYMENT, "card": "tok_declined"}, key="k-1")
        again = post(path, {**PAYMENT, "card": "tok_declined"}, key="k-1")

        assert (declined.status_code, again.status_code, again.content) == (402, 402, declined.content)
        assert [payment["asked"] for payment in gateway.listed()] == [1]

    @pytest.mark.parametrize("change", [{"amount": 0}, {"currency": "USD"}, {"card": "tok_unknown"}, {"card": ""}])
    def test_a_payload_that_is_refused_can_be_mended(self, post, path, gateway, change):
        """By the API or by the gateway, which does not know every card: it has charged none, and the key is free."""
        refused = post(path, {**PAYMENT, **change}, key="k-1")
        assert (refused.status_code, gateway.listed()) == (400, [])

        assert post(path, PAYMENT, key="k-1").status_code == 201
        assert len(gateway.listed()) == 1


@pytest.mark.usefixtures("redis")
class TestGateway:
    """What becomes of a key when the gateway does not answer."""

    def test_a_gateway_that_cannot_be_reached_leaves_the_key_free(self, post, path, gateway, settings, nowhere):
        """503: nothing was sent, and the retry runs."""
        there, settings.GATEWAY_URL = settings.GATEWAY_URL, f"http://{nowhere}"
        refused = post(path, PAYMENT, key="k-1")
        settings.GATEWAY_URL = there
        retry = post(path, PAYMENT, key="k-1")

        assert refused.status_code == 503
        assert refused.json()["detail"] == "The card gateway cannot be reached. No card was charged."
        assert (retry.status_code, "Idempotency-Replayed" in retry) == (201, False)
        assert [payment["asked"] for payment in gateway.listed()] == [1]

    def test_a_late_answer_is_asked_for_again_under_the_same_key(self, post, path, gateway, settings):
        """504: the card was charged and nobody knew; the retry asks again, and one payment is all there is."""
        settings.GATEWAY_TIMEOUT = (2, 0.1)
        late = post(path, {**PAYMENT, "card": "tok_slow"}, key="k-1")
        assert (late.status_code, len(gateway.listed())) == (504, 1)

        settings.GATEWAY_TIMEOUT = (2, 4)
        retry = post(path, {**PAYMENT, "card": "tok_slow"}, key="k-1")
        assert (retry.status_code, "Idempotency-Replayed" in retry) == (201, False)
        assert [(payment["id"], payment["asked"]) for payment in gateway.listed()] == [(retry.json()["id"], 2)]

    def test_a_mended_payload_gets_another_key_at_the_gateway(self, post, path, gateway, settings):
        """The derived key is of the payload too: the gateway makes another payment of it, not the first one again."""
        settings.GATEWAY_TIMEOUT = (2, 0.1)
        post(path, {**PAYMENT, "card": "tok_slow"}, key="k-1")
        mended = post(path, {**PAYMENT, "amount": 1}, key="k-1")

        assert mended.json()["amount"] == 1
        assert [payment["amount"] for payment in gateway.listed()] == [5000, 1]


@pytest.fixture
def breaking_gateway():
    """The URL of a server that reads a request and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = "import socket; client, _ = socket.socket(fileno=0).accept(); client.recv(65536)"
        process = subprocess.Popen([sys.executable, "-c", script], stdin=listener.fileno())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        process.wait()


def test_a_connection_that_breaks_may_have_carried_all(settings, breaking_gateway):
    """Only what never was connected is certainly not sent."""
    settings.GATEWAY_URL = breaking_gateway

    with pytest.raises(cards.GatewaySilent):
        cards.charge(PAYMENT, key="k-1")


def test_without_redis_card_payments_are_refused_and_nothing_else(post, path, gateway, account, settings, nowhere):
    """503 `store-unavailable`, before the gateway is asked; a charge, whose key is in the database, goes on."""
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": f"redis://{nowhere}/0"}}
    refused = post(path, PAYMENT, key="k-1")
    charge = {"amount": 1250, "currency": "EUR", "reference": "order 1"}
    charged = [post(f"/api/accounts/{account.pk}/charges/", charge, key="k-1") for _ in range(2)]

    assert (refused.status_code, refused.json()["code"]) == (503, "store-unavailable")
    assert int(refused["Retry-After"]) >= 1
    assert not gateway.listed()
    assert [response.get("Idempotency-Replayed") for response in charged] == [None, "true"]
    assert Charge.objects.count() == 1


def test_the_servers_of_card_payments_start_and_end_with_a_command(monkeypatch):
    """`make run`: without `REDIS_URL` and `GATEWAY_URL` both are there, for as long as the command runs."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("GATEWAY_URL", raising=False)
    script = """
        import os, redis, requests
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            assert client.ping()
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert client.info("persistence")["aof_enabled"]
        assert requests.get(os.environ["GATEWAY_URL"] + "/payments", timeout=5).json() == {"payments": []}
        print(os.environ["REDIS_URL"])
    """
    done = subprocess.run(
        [sys.executable, "-m", "sample_project.services", "-c", "if True:" + script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    host, _, port = done.stdout.split()[-1].removeprefix("redis://").removesuffix("/0").partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_the_gateway_writes_down_what_it_is_asked(tmp_path):
    """A line of JSON for each request, the repeated one as well; and it charges nothing that is not a payment."""
    from sample_project import gateway

    with (tmp_path / "log").open("w+") as log, gateway.running(log=log) as running:
        for key in ("g-1", "g-1", "g-2"):
            requests.post(f"{running.url}/payments", json=PAYMENT, headers={"Idempotency-Key": key}, timeout=5)
        refused = requests.post(f"{running.url}/payments", data="{", timeout=5)
        listed = requests.get(f"{running.url}/payments", timeout=5).json()["payments"]
        log.seek(0)
        lines = [json.loads(line) for line in log]

    assert [(line["key"], line["payment"]) for line in lines] == [("g-1", "pay_1"), ("g-1", "pay_1"), ("g-2", "pay_2")]
    assert [payment["asked"] for payment in listed] == [2, 1]
    assert refused.status_code == 400
