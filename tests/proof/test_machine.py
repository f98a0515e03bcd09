"""Any sequence of requests against a model of the decisions and outcomes that are promised, in real transactions."""

import itertools
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rest_framework.authtoken.models import Token

from tests.app.models import Payment
from tests.proof.lab import SCALE, amounts, expire, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.proof.urls"), pytest.mark.slow]

# What a handler does, and the status that its caller gets.
FORGOTTEN = {"refuse": 400, "raise": 400, "fail": 503, "undo": 201}
REMEMBERED = {"": 201, "savepoints": 201, "decline": 402}
SCRIPTS = FORGOTTEN | REMEMBERED
EFFECTS = {"": (0,), "savepoints": (1, 2), "decline": (0,)}  # added to the amount

PAYERS = ("first payer", "second payer")


@dataclass
class Stored:
    """What the model knows of an identity whose record lives."""

    amount: int
    status: int
    body: bytes


class Machine(RuleBasedStateMachine):
    """Keys are a user's own: the model's identities are pairs of a user and a key."""

    keys = Bundle("keys")
    requests = 0

    @initialize()
    def begin(self) -> None:
        self.prefix = uuid.uuid4().hex
        self.numbers = itertools.count()
        self.stored: dict[tuple[str, str], Stored] = {}
        self.expired: dict[tuple[str, str], Stored] = {}
        self.effects: dict[str, list[int]] = {}
        self.before = Payment.objects.count()
        self.clients = {}
        for name in PAYERS:
            token = Token.objects.get(user__username=name)
            self.clients[name] = Client(raise_request_exception=False, headers={"Authorization": f"Token {token.key}"})

    def ask(self, payer: str, key: str, amount: int, script: str) -> Any:
        return self.clients[payer].post(
            "/pay/",
            json.dumps({"amount": amount, "reference": key}),
            content_type="application/json",
            headers={"Idempotency-Key": key, "X-Proof": script},
        )

    def arrive(self, payer: str, key: str, amount: int, script: str) -> None:
        """One request, held against the model."""
        Machine.requests += 1
        response = self.ask(payer, key, amount, script)
        replayed = response.headers.get("Idempotency-Replayed")
        stored = self.stored.get((payer, key))
        if stored is None:
            assert (response.status_code, replayed) == (SCRIPTS[script], None)
            if script in REMEMBERED:
                self.stored[payer, key] = Stored(amount, response.status_code, response.content)
                self.effects.setdefault(key, []).extend(amount + more for more in EFFECTS[script])
        elif stored.amount != amount:
            assert (response.status_code, response.json()["code"]) == (422, "key-reused")
        else:
            assert (response.status_code, replayed) == (stored.status, "true")
            assert response.content == stored.body
        self.check(key)

    def check(self, key: str) -> None:
        assert amounts(key) == sorted(self.effects.get(key, []))
        assert sorted(statuses(key)) == sorted(stored.status for (_, k), stored in self.live_or_expired(key))

    def live_or_expired(self, key: str) -> list[Any]:
        return [item for item in (*self.stored.items(), *self.expired.items()) if item[0][1] == key]

    @rule(target=keys, payer=st.sampled_from(PAYERS), amount=st.integers(1, 3), script=st.sampled_from(sorted(SCRIPTS)))
    def new_key(self, payer: str, amount: int, script: str) -> str:
        key = f"{self.prefix}-{next(self.numbers)}"
        self.arrive(payer, key, amount, script)
        return key

    @rule(key=keys, payer=st.sampled_from(PAYERS), amount=st.integers(1, 3), script=st.sampled_from(sorted(SCRIPTS)))
    def known_key(self, key: str, payer: str, amount: int, script: str) -> None:
        """A retry, another payload, another user's key of the same name, or an execution after one that rolled back."""
        if script in REMEMBERED:  # what rolls back leaves the expired record where it was
            self.expired.pop((payer, key), None)
        self.arrive(payer, key, amount, script)

    @rule(key=keys)
    def retry(self, key: str) -> None:
        """The same request again, whatever the handler would do this time."""
        for (payer, k), stored in list(self.stored.items()):
            if k == key:
                self.arrive(payer, key, stored.amount, "raise")

    @rule(key=keys)
    def expiry(self, key: str) -> None:
        """The record's time is over: the key is new again."""
        mine = [identity for identity in self.stored if identity[1] == key]
        if len(mine) == 1 and not any(identity[1] == key for identity in self.expired):
            expire(key)
            self.expired[mine[0]] = self.stored.pop(mine[0])

    @rule()
    def toggle_atomic_requests(self) -> None:
        options = connections["default"].settings_dict
        options["ATOMIC_REQUESTS"] = not options["ATOMIC_REQUESTS"]

    @invariant()
    def nothing_else_happened(self) -> None:
        """No effect beside the model's, and no transaction left open."""
        assert Payment.objects.count() - self.before == sum(map(len, self.effects.values()))
        assert not connections["default"].in_atomic_block

    def teardown(self) -> None:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False


def test_any_sequence_of_requests_does_what_the_model_says(transactional_db, django_user_model, count, vendor):
    """New keys, retries, other payloads, other users, refusals, errors, expiry, with and without ATOMIC_REQUESTS."""
    for name in PAYERS:
        Token.objects.create(user=django_user_model.objects.create_user(name))
    examples = 150 * SCALE
    Machine.requests = 0
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    count(f"{vendor}, state machine", examples=examples, requests=Machine.requests)
