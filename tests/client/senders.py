"""The same call by each library, so that one test is about all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import requests
import trio

from django_idempotency.client import CallPolicy
from django_idempotency.client import httpx as for_httpx
from django_idempotency.client import requests as for_requests


@dataclass(slots=True)
class Clock:
    """Time that passes when somebody sleeps."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Sender:
    """A library with the client's part around its own. Time passes on *clock*, if it is given."""

    errors: Any  # the library's errors of a call
    refused: Any  # and of an answer
    edge: Any  # the module of the client

    def __init__(self, policy: CallPolicy, clock: Clock | None = None) -> None:
        self.policy = policy
        self.clock = clock

    def send(self, method: str, url: str, *, redirected: bool = False, **options: Any) -> Any:
        """The library's own response; *redirected* follows redirects, *content* is the body."""
        raise NotImplementedError


class Httpx(Sender):
    errors = httpx.RequestError
    refused = httpx.HTTPStatusError
    edge = for_httpx
    digest = httpx.DigestAuth

    def send(self, method: str, url: str, *, redirected: bool = False, **options: Any) -> Any:
        transport = for_httpx.IdempotentTransport(
            policy=self.policy, **({"sleep": self.clock.sleep} if self.clock else {})
        )
        with httpx.Client(transport=transport, follow_redirects=redirected) as client:
            return client.request(method, url, **options)


class AsyncHttpx(Httpx):
    def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return asyncio.run(call())

    def send(self, method: str, url: str, *, redirected: bool = False, **options: Any) -> Any:
        async def call() -> Any:
            transport = for_httpx.AsyncIdempotentTransport(
                policy=self.policy, **({"sleep": self.clock.sleep_async} if self.clock else {})
            )
            async with httpx.AsyncClient(transport=transport, follow_redirects=redirected) as client:
                return await client.request(method, url, **options)

        return self.run(call)


class TrioHttpx(AsyncHttpx):
    def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return trio.run(call)


class Requests(Sender):
    errors = requests.RequestException
    refused = requests.HTTPError
    edge = for_requests
    digest = requests.auth.HTTPDigestAuth

    def send(self, method: str, url: str, *, redirected: bool = False, **options: Any) -> Any:
        if "content" in options:
            options["data"] = options.pop("content")
        with requests.Session() as session:
            adapter = for_requests.IdempotentAdapter(
                policy=self.policy, **({"sleep": self.clock.sleep} if self.clock else {})
            )
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            return session.request(method, url, allow_redirects=redirected, **options)


SENDERS = {"httpx": Httpx, "httpx-asyncio": AsyncHttpx, "httpx-trio": TrioHttpx, "requests": Requests}
