"""
The load: clients that pay with keys, send each again until they have its final answer, and keep a log.

A client does not obey `Retry-After`: it asks again within milliseconds, which is harder on the server.
"""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults.bodies import Spelling, as_json
from benchmarks.faults.journal import Journal

TIMEOUT = 5.0  # seconds for one attempt
PATIENCE = 40.0  # seconds for the last keys, when the fault is over
DUPLICATES = 0.3  # the share of keys that two clients send at once
LENGTH_REQUIRED = 411  # a refusal that a length answers
REPEATS = 0.15  # the share of payments that are sent again when they have their answer

Address = tuple[str, int]


class Load:
    """
    *clients* threads that send payments to *path* at what *addresses* says at the moment, until the load ends.

    A handler waits for *seconds*; for a first attempt, in a share *slow* of keys, for *slow_seconds*. *payload* makes
    what a payment has besides its amount and its reference, from a random source that its key seeds. A payment is
    spelled in one of *spellings*. With *chunked*, it is sent without a length, unless the server wants one (411); and
    when it is answered, another payment is sent under its key, which must not get the answer.
    """

    def __init__(
        self,
        addresses: Callable[[], list[Address]],
        *,
        log: Path,
        prefix: str,
        path: str = "/pay/",
        clients: int = 6,
        seconds: float = 0.005,
        slow: float = 0.0,
        slow_seconds: float = 0.0,
        payload: Callable[[random.Random], dict[str, Any]] = lambda draw: {},
        spellings: Sequence[Spelling] = (as_json,),
        chunked: bool = False,
        duplicates: float = DUPLICATES,
        repeats: float = REPEATS,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self.addresses = addresses
        self.journal = Journal(log)
        self.prefix = prefix
        self.path = path
        self.seconds = seconds
        self.slow = slow
        self.slow_seconds = slow_seconds
        self.payload = payload
        self.spellings = spellings
        self.chunked = chunked
        self.duplicates = duplicates
        self.repeats = repeats
        self.timeout = timeout
        self.patience = patience
        self.answered = 0
        self.slowed = 0  # first attempts whose handler waits for long
        self._lock = threading.Lock()
        self._number = 0
        self._again: list[str] = []  # for a second client
        self._answered: list[str] = []
        self._ending = threading.Event()
        self._given_up = 0.0
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._serve, args=(number,)) for number in range(clients)]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Inside, the clients send. At the end they finish the keys that they have."""
        self._given_up = time.monotonic() + 3600
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._given_up = time.monotonic() + self.patience
            self._ending.set()
            for thread in self._threads:
                thread.join()
            self.journal.close()
        if self._errors:
            raise self._errors[0]

    def wait_for_answers(self, count: int, seconds: float) -> bool:
        """Until *count* more keys have their answers, or that time is over."""
        wanted = self.answered + count
        deadline = time.monotonic() + seconds
        while self.answered < wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _serve(self, number: int) -> None:
        draw = random.Random(f"{self.prefix}/{number}")
        try:
            while not self._ending.is_set():
                self._pay(self._key(draw), draw)
        except BaseException as error:  # raised again by `running`
            self._errors.append(error)
            self._ending.set()

    def _key(self, draw: random.Random) -> str:
        with self._lock:
            if self._again:
                return self._again.pop()
            if self._answered and draw.random() < self.repeats:
                return draw.choice(self._answered)
            self._number += 1
            key = f"{self.prefix}-{self._number}"
            if draw.random() < self.duplicates:
                self._again.append(key)
            return key

    def _pay(self, key: str, draw: random.Random) -> None:
        own = random.Random(key)
        payment = {"amount": 10, "reference": key, **self.payload(own)}
        spelling = own.choice(self.spellings)
        media_type, body = spelling(payment)
        chunked = self.chunked
        seconds = self.seconds
        if draw.random() < self.slow:
            seconds = self.slow_seconds
            self.slowed += 1
        while True:
            status, content = self._attempt(key, media_type, body, seconds, draw, chunked=chunked)
            line = self.journal.answer(key, status, content)
            if status == LENGTH_REQUIRED and chunked:
                chunked = False
                continue
            if status == 201 and line["effect"] is not None:
                with self._lock:
                    self.answered += 1
                    self._answered.append(key)
                if self.chunked:
                    self._pay_another(key, spelling(payment | {"reference": f"{key}-other"}), draw)
                return
            if is_hopeless(status, line.get("code")) or time.monotonic() > self._given_up:
                return
            seconds = self.seconds
            time.sleep(draw.uniform(0.002, 0.03))  # as a client that polls

    def _pay_another(self, key: str, payment: tuple[str, bytes], draw: random.Random) -> None:
        """Send another *payment* under *key*. An answer is noted as the other's, whose effect the checker misses."""
        status, content = self._attempt(key, *payment, 0.0, draw, chunked=True)
        if status == 201:
            self.journal.answer(f"{key}-other", status, content)

    def _attempt(
        self, key: str, media_type: str, body: bytes, seconds: float, draw: random.Random, *, chunked: bool
    ) -> tuple[int | None, bytes]:
        """The status and the body of an answer; None if there was none, or half of one."""
        length = f"Content-Length: {len(body)}"
        if chunked:
            length, body = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\nX-Seconds: {seconds}\r\n"
            f"Content-Type: {media_type}\r\n{length}\r\nConnection: close\r\n\r\n"
        )
        try:
            with socket.create_connection(draw.choice(self.addresses()), self.timeout) as connection:
                connection.sendall(head.encode() + body)
                received = b""
                while chunk := connection.recv(65536):
                    received += chunk
        except OSError:
            return None, b""
        return answer_in(received)


def is_hopeless(status: int | None, code: str | None) -> bool:
    """Is it of no use to ask again?"""
    return status is not None and 400 <= status < 500 and code not in ("request-in-progress", "body-incomplete")


def answer_in(received: bytes) -> tuple[int | None, bytes]:
    """The status and the body of an HTTP/1.1 response that is complete, else None."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None, b""
    first, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if int(headers.get("content-length", len(body))) != len(body):
        return None, b""
    return int(first.split(" ")[1]), body
