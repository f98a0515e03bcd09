"""The steps whose work is at the card gateway, which no transaction covers."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from .client import TIMEOUT, Answer, Request, send
from .report import Report
from .server import WORKERS, Server
from .waiting import wait_for


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPayments:
    server: Server
    report: Report
    gateway_url: str
    pay: Callable[..., Request]  # a customer's request, of a reference and a card
    top_up: Callable[..., Request]  # the same, for the money to be put on the customer's account
    balance: Callable[[], int]  # of the account

    def steps(self) -> list[Callable[[], None]]:
        return [self.a_payment_and_its_retry, self.a_late_gateway, self.a_killed_worker, self.no_client_comes_back]

    def payments(self, reference: str) -> list[dict[str, Any]]:
        """The payments of the gateway, read without the API. `asked` is the number of requests for each."""
        books = requests.get(f"{self.gateway_url}/payments", timeout=TIMEOUT).json()["payments"]
        return [payment for payment in books if payment["reference"] == reference]

    def check_gateway(self, reference: str, *, asked: int) -> None:
        """One payment, however often the gateway *asked* for it."""
        payments = self.payments(reference)
        self.report.check("payments at the gateway", expected=1, seen=len(payments))
        self.report.check("times it was asked", expected=asked, seen=sum(each["asked"] for each in payments))

    def a_payment_and_its_retry(self) -> None:
        check = self.report.check
        self.report.step("A card charged at the gateway, where no transaction reaches, and the retry")
        request = self.pay("card 1", card="tok_visa")
        original = send(self.server.address, request)
        check("status", expected=201, seen=original.status)
        check("Idempotency-Replayed", expected="absent", seen=original.replayed)
        again = send(self.server.address, request)
        check("the retry's status", expected=201, seen=again.status)
        check("sha256 of the body", expected=original.sha, seen=again.sha)
        check("Idempotency-Replayed", expected="true", seen=again.replayed)
        self.check_gateway("card 1", asked=1)

    def a_late_gateway(self) -> None:
        check = self.report.check
        self.report.step("The gateway charges and does not answer in time, and the retry")
        request = self.pay("card 2", card="tok_slow")
        late = send(self.server.address, request)
        check("status", expected=504, seen=late.status)
        check("payments at the gateway", expected=1, seen=len(self.payments("card 2")))
        retry = send(self.server.address, request)
        check("the retry's status", expected=201, seen=retry.status)
        check("Idempotency-Replayed", expected="absent", seen=retry.replayed)
        self.report.note("(It ran again, and gave the gateway the same derived key, which the gateway knew.)")
        self.check_gateway("card 2", asked=2)

    def a_killed_worker(self) -> None:
        check = self.report.check
        self.report.step("A worker killed with -9 while it waits for the gateway, and the retry")
        request = self.pay("card 3", card="tok_slow")
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(send, self.server.address, request)
            payments = wait_for("the gateway to be asked", lambda: self.payments("card 3"))
            worker = self.server.paying_worker()
            self.report.note(f"Worker {worker} has asked the gateway, which has charged the card.")
            self.check_refusal("a duplicate meanwhile", send(self.server.address, request), "request-in-progress")
            self.server.kill(worker)
            error = lost.exception()
        check("the client lost its connection", expected=True, seen=isinstance(error, ConnectionError))
        self.check_refusal("a retry at once", send(self.server.address, request), "request-in-progress")
        self.check_refusal("when the lease is over", self.send_until_decided(request), "outcome-unknown")
        self.settle(request, payments[0]["id"])
        retry = send(self.server.address, request)
        check("the retry's status", expected=201, seen=retry.status)
        check("the payment it tells of", expected=payments[0]["id"], seen=retry.json.get("id"))
        check("Idempotency-Replayed", expected="absent", seen=retry.replayed)
        again = send(self.server.address, request)
        check("sha256 of one more retry", expected=retry.sha, seen=again.sha)
        check("Idempotency-Replayed", expected="true", seen=again.replayed)
        self.check_gateway("card 3", asked=2)
        wait_for("a new worker", lambda: len(self.server.workers() - {worker}) == WORKERS)

    def no_client_comes_back(self) -> None:
        check = self.report.check
        self.report.step("A worker killed with -9 between the charge and its COMMIT, and no client comes back")
        before = self.balance()
        request = self.top_up("card 4", card="tok_slow")
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(send, self.server.address, request)
            (payment,) = wait_for("the gateway to be asked", lambda: self.payments("card 4"))
            worker = self.server.paying_worker()
            self.report.note(f"Worker {worker} has asked the gateway, which has charged the card.")
            self.server.kill(worker)
            error = lost.exception()
        check("the client lost its connection", expected=True, seen=isinstance(error, ConnectionError))
        check("balance", expected=before, seen=self.balance())
        self.report.note("$ manage.py idempotency_resume")
        said = wait_for("the lease to be over", lambda: self.server.manage("idempotency_resume"))
        check("runs that it finished", expected=True, seen="1 run in 'default': 1 finished" in said)
        self.check_gateway("card 4", asked=2)
        check("balance", expected=before + 5000, seen=self.balance())
        late = send(self.server.address, request)
        check("a client that comes back all the same", expected=201, seen=late.status)
        check("Idempotency-Replayed", expected="true", seen=late.replayed)
        check("the payment it tells of", expected=payment["id"], seen=late.json.get("payment"))
        self.check_gateway("card 4", asked=2)
        check("balance", expected=before + 5000, seen=self.balance())
        wait_for("a new worker", lambda: len(self.server.workers() - {worker}) == WORKERS)

    def check_refusal(self, what: str, answer: Answer, code: str) -> None:
        self.report.check(what, expected=409, seen=answer.status)
        self.report.check("its code", expected=code, seen=answer.code)

    def send_until_decided(self, request: Request) -> Answer:
        """The answer when no request is in flight any more. The client retries after `Retry-After`."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = send(self.server.address, request)
            if answer.code != "request-in-progress" or time.monotonic() > deadline:
                return answer
            time.sleep(int(answer.headers.get("Retry-After", 1)))

    def settle(self, request: Request, payment: str) -> None:
        """What an operator does with an unknown outcome: ask the gateway, and decide."""
        listed = json.loads(self.server.manage("idempotency_unsettled", "--store", "redis", "--json"))
        found = [record["identity"] for record in listed if record["key"] == request.key]
        self.report.check("outcomes listed for the operator", expected=1, seen=len(found))
        self.report.note(f"The operator finds {payment} in the gateway's books, and lets the request run again:")
        for identity in found:
            self.report.note(f"$ manage.py idempotency_unsettled --run-again {identity[:8]}...")
            self.server.manage("idempotency_unsettled", "--store", "redis", "--run-again", identity)
