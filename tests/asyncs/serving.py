"""Async views, and requests for them as an ASGI server makes them: each with a task and a thread of its own."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.db import connections
from django.http import JsonResponse

from tests.app.models import Payment

TIMEOUT = 30  # seconds, for what happens at once unless a test fails


async def make_payment(request: Any, reference: str = "") -> JsonResponse:
    """Pay by Django's async ORM, and answer 201 with the payment."""
    payment = await Payment.objects.acreate(amount=json.loads(request.body)["amount"], reference=reference)
    return JsonResponse({"id": payment.pk, "amount": payment.amount}, status=201)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an ASGI server would send to its client."""

    status: int  # 0: the connection was closed without an answer
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def is_replay(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


class Asgi:
    """Django's ASGI application, as a server calls it."""

    def __init__(self) -> None:
        self.application: Any = get_asgi_application()

    async def post(
        self,
        path: str = "/act/",
        data: Any = None,
        *,
        key: str | None = "key-1",
        headers: dict[str, str] | None = None,
        hangs_up: asyncio.Event | None = None,
        method: str = "POST",
    ) -> Answer:
        """Send a request; the client hangs up when *hangs_up* is set."""
        body = json.dumps({"amount": 10} if data is None else data).encode()
        sent_headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
        sent_headers |= {} if key is None else {"idempotency-key": key}
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in (sent_headers | (headers or {})).items()],
        }  # fmt: skip
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await (hangs_up or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await asyncio.wait_for(self.application(scope, receive, send), TIMEOUT)
        if not sent:
            return Answer(0)
        named = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:]))

    def run(self, script: Callable[["Asgi"], Coroutine[Any, Any, Any]]) -> Any:
        """Run the async *script*, which gets this, as a server's process would."""
        return run(script(self))


def run(script: Coroutine[Any, Any, Any]) -> Any:
    """Run *script* in an event loop, and close the connections that it opened outside of requests."""

    async def main() -> Any:
        try:
            return await asyncio.wait_for(script, TIMEOUT)
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(main())
