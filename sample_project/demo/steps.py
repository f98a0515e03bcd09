"""The steps of the demo. Each has keys and references of its own, so that rows can be told apart."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPConnection
from threading import Barrier
from urllib.parse import urlsplit

from django.db import connection

from sample_project.payments.invoices import InvoicePaid
from sample_project.payments.models import Account, Charge

from .card_steps import CardPayments
from .client import Answer, LossyProxy, Request, reset, send, send_until_answered, sha
from .form_steps import Forms
from .report import Report
from .server import WORKERS, Server
from .waiting import wait_for

AT_ONCE = 20


def new_key() -> str:
    return str(uuid.uuid4())


def path_of(answer: Answer) -> str:
    """The path of the charge that the answer names, without the host."""
    return urlsplit(answer.headers["Location"]).path


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A user of the API, with an account to charge."""

    username: str
    token: str
    account: Account

    def charge(self, reference: str, *, key: str, amount: int = 1250) -> Request:
        return Request(
            path=f"/api/accounts/{self.account.pk}/charges/",
            payload={"amount": amount, "currency": self.account.currency, "reference": reference},
            token=self.token,
            key=key,
        )

    def card_payment(self, reference: str, *, card: str) -> Request:
        """A request with a key of its own."""
        return Request(
            path=f"/api/accounts/{self.account.pk}/card-payments/",
            payload={"amount": 5000, "currency": self.account.currency, "card": card, "reference": reference},
            token=self.token,
            key=new_key(),
        )

    def top_up(self, reference: str, *, card: str) -> Request:
        """The same, for the money to be put on the account."""
        return replace(self.card_payment(reference, card=card), path=f"/api/accounts/{self.account.pk}/top-ups/")

    def charges(self, reference: str) -> int:
        """Rows in the database, counted over a connection that is not the server's."""
        return Charge.objects.filter(account=self.account, reference=reference).count()

    def balance(self) -> int:
        return Account.objects.get(pk=self.account.pk).balance


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    server: Server
    report: Report
    ann: Customer
    bob: Customer
    gateway_url: str
    password: str  # of each customer

    def run(self) -> None:
        first = self.ann.charge("order 1", key=new_key())
        cards = CardPayments(
            server=self.server,
            report=self.report,
            gateway_url=self.gateway_url,
            pay=self.ann.card_payment,
            top_up=self.ann.top_up,
            balance=self.ann.balance,
        )
        forms = Forms(
            server=self.server,
            report=self.report,
            username=self.ann.username,
            password=self.password,
            account=self.ann.account.pk,
            charges=self.ann.charges,
        )
        for step in (
            partial(self.a_charge_and_its_retry, first),
            partial(self.another_payload, first),
            partial(self.another_user, first),
            self.many_at_once,
            self.a_killed_worker,
            self.a_client_that_hangs_up,
            self.a_lost_answer,
            self.a_decline,
            *cards.steps(),
            forms.a_double_click,
            self.the_books,
        ):
            try:
                step()
            except Exception as error:  # whatever it is, the next step still runs
                self.report.broke(error)

    def a_charge_and_its_retry(self, first: Request) -> None:
        check = self.report.check
        self.report.step("A charge")
        before = self.ann.balance()
        original = send(self.server.address, first)
        check("status", expected=201, seen=original.status)
        check("Idempotency-Replayed", expected="absent", seen=original.replayed)
        check("charges in the database", expected=1, seen=self.ann.charges("order 1"))
        check("balance", expected=before - 1250, seen=self.ann.balance())

        self.report.step("The same again")
        again = send(self.server.address, first)
        check("status", expected=201, seen=again.status)
        check("sha256 of the body", expected=original.sha, seen=again.sha)
        check("Location", expected=path_of(original), seen=path_of(again))
        check("Idempotency-Replayed", expected="true", seen=again.replayed)
        check("charges in the database", expected=1, seen=self.ann.charges("order 1"))
        check("balance", expected=before - 1250, seen=self.ann.balance())

    def another_payload(self, first: Request) -> None:
        check = self.report.check
        self.report.step("Another payload with its key")
        before = self.ann.balance()
        refused = send(self.server.address, self.ann.charge("order 1", key=first.key, amount=9900))
        check("status", expected=422, seen=refused.status)
        check("code", expected="key-reused", seen=refused.code)
        check("charges in the database", expected=1, seen=self.ann.charges("order 1"))
        check("balance", expected=before, seen=self.ann.balance())

    def another_user(self, first: Request) -> None:
        check = self.report.check
        self.report.step("Another user's same key")
        theirs = send(self.server.address, self.bob.charge("order 1", key=first.key))
        check("status", expected=201, seen=theirs.status)
        check("Idempotency-Replayed", expected="absent", seen=theirs.replayed)
        check("whose account", expected=self.bob.account.pk, seen=theirs.json["account"])
        check("the user's own charges", expected=1, seen=self.bob.charges("order 1"))
        stolen = Request(path=first.path, payload=first.payload, token=self.bob.token, key=first.key)
        check("the first request, by that user", expected=404, seen=send(self.server.address, stolen).status)
        check("the first user's charges", expected=1, seen=self.ann.charges("order 1"))

    def many_at_once(self) -> None:
        check = self.report.check
        self.report.step(f"{AT_ONCE} at once with one key")
        before = self.ann.balance()
        request = self.ann.charge("order 2", key=new_key())
        together = Barrier(AT_ONCE)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [
                pool.submit(send_until_answered, self.server.address, request, together=together)
                for _ in range(AT_ONCE)
            ]
            answers = [future.result() for future in futures]
        check("statuses", expected={201}, seen={answer.status for answer in answers})
        check("different bodies", expected=1, seen=len({answer.body for answer in answers}))
        check("executed", expected=1, seen=sum(answer.replayed == "absent" for answer in answers))
        check("replayed", expected=AT_ONCE - 1, seen=sum(answer.replayed == "true" for answer in answers))
        check("charges in the database", expected=1, seen=self.ann.charges("order 2"))
        check("balance", expected=before - 1250, seen=self.ann.balance())
        refused = sum(answer.refusals > 0 for answer in answers)
        self.report.note(f"({refused} of them got 409 first, and came back when Retry-After said so.)")

    def a_killed_worker(self) -> None:
        check = self.report.check
        self.report.step("A worker killed with -9 in the middle, and the retry")
        before = self.ann.balance()
        request = self.ann.charge("order 3", key=new_key())
        with ThreadPoolExecutor(1) as pool, self.server.next_charge_held():
            lost = pool.submit(send, self.server.address, request)
            worker = self.server.held_worker()
            self.report.note(f"Worker {worker} has inserted the charge and has not committed.")
            check("charges that others see", expected=0, seen=self.ann.charges("order 3"))
            if connection.vendor == "sqlite":
                self.report.note("(SQLite has one writer: a duplicate would wait for it. None is sent.)")
            else:
                early = send(self.server.address, request)
                check("a duplicate meanwhile", expected=409, seen=early.status)
                check("its code", expected="request-in-progress", seen=early.code)
                check("its Retry-After", expected=True, seen=int(early.headers.get("Retry-After", 0)) >= 1)
            self.server.kill(worker)
            error = lost.exception()
        check("the client lost its connection", expected=True, seen=isinstance(error, ConnectionError))
        check("charges in the database", expected=0, seen=self.ann.charges("order 3"))
        retry = send_until_answered(self.server.address, request)
        check("the retry's status", expected=201, seen=retry.status)
        check("Idempotency-Replayed", expected="absent", seen=retry.replayed)
        check("charges in the database", expected=1, seen=self.ann.charges("order 3"))
        again = send(self.server.address, request)
        check("sha256 of one more retry", expected=retry.sha, seen=again.sha)
        check("Idempotency-Replayed", expected="true", seen=again.replayed)
        check("balance", expected=before - 1250, seen=self.ann.balance())
        wait_for("a new worker", lambda: len(self.server.workers() - {worker}) == WORKERS)
        check("workers", expected=WORKERS, seen=len(self.server.workers()))

    def a_client_that_hangs_up(self) -> None:
        check = self.report.check
        self.report.step("The client hangs up in the middle, and retries")
        before = self.ann.balance()
        request = self.ann.charge("order 4", key=new_key())
        with self.server.next_charge_held():
            impatient = HTTPConnection(*self.server.address, timeout=20)
            impatient.request("POST", request.path, request.body, request.headers)
            self.server.held_worker()
            check("charges that others see", expected=0, seen=self.ann.charges("order 4"))
            reset(impatient)
        retry = send_until_answered(self.server.address, request)
        check("the retry's status", expected=201, seen=retry.status)
        check("Idempotency-Replayed", expected="true", seen=retry.replayed)
        row = Charge.objects.filter(account=self.ann.account, reference="order 4").first()
        check("the charge it tells of", expected=row and row.pk, seen=retry.json["id"])
        check("charges in the database", expected=1, seen=self.ann.charges("order 4"))
        check("balance", expected=before - 1250, seen=self.ann.balance())

    def a_lost_answer(self) -> None:
        check = self.report.check
        self.report.step("The connection cut before the answer arrives, and the retry")
        before = self.ann.balance()
        request = self.ann.charge("order 5", key=new_key())
        with LossyProxy(self.server.address) as proxy:
            try:
                send(self.server.address, request, via=proxy.address)
                error: Exception | None = None
            except ConnectionError as lost:
                error = lost
        check("the client lost its connection", expected=True, seen=error is not None)
        check("charges in the database", expected=1, seen=self.ann.charges("order 5"))
        retry = send(self.server.address, request)
        check("the retry's status", expected=201, seen=retry.status)
        check("sha256 of what was lost", expected=sha(proxy.lost), seen=retry.sha)
        check("Idempotency-Replayed", expected="true", seen=retry.replayed)
        check("charges in the database", expected=1, seen=self.ann.charges("order 5"))
        check("balance", expected=before - 1250, seen=self.ann.balance())

    def a_decline(self) -> None:
        check = self.report.check
        self.report.step("A decline, and the retry after money has come in")
        before = self.ann.balance()
        request = self.ann.charge("order 6", key=new_key(), amount=before + 1)
        declined = send(self.server.address, request)
        check("status", expected=402, seen=declined.status)
        check("decline code", expected="insufficient_funds", seen=declined.json["decline_code"])
        check("charges in the database", expected=1, seen=self.ann.charges("order 6"))
        event: InvoicePaid = {
            "id": f"evt-{new_key()}",
            "type": "invoice.paid",
            "invoice": "INV-7",
            "account": self.ann.account.pk,
            "amount": 1000,
        }
        queue = self.server.directory / "events.jsonl"
        queue.write_text(2 * f"{json.dumps(event)}\n")
        self.server.manage("consume_events", str(queue))
        check("deposits of an event sent twice", expected=1, seen=self.ann.account.deposits.count())
        check("balance", expected=before + 1000, seen=self.ann.balance())
        again = send(self.server.address, request)
        check("the retry's status", expected=402, seen=again.status)
        check("sha256 of the body", expected=declined.sha, seen=again.sha)
        check("Idempotency-Replayed", expected="true", seen=again.replayed)
        check("charges in the database", expected=1, seen=self.ann.charges("order 6"))
        check("balance", expected=before + 1000, seen=self.ann.balance())

    def the_books(self) -> None:
        self.report.step("The books balance")
        for name, customer in (("first", self.ann), ("second", self.bob)):
            charges = customer.account.charges.filter(status=Charge.Status.SUCCEEDED)
            taken = sum(charges.values_list("amount", flat=True))
            given = sum(customer.account.deposits.values_list("amount", flat=True))
            left = customer.account.balance + given - taken  # this object still has the first balance
            self.report.check(f"the {name} user's balance", expected=left, seen=customer.balance())
