"""
For `httpx`: transports that send a request until it has a final answer.

    transport = IdempotentTransport()
    client = httpx.Client(mounts={"https://api.example.com": transport})

They are under the client, so redirects and authentication happen above them, and keep the key: a request that is sent
again after a 401 is the same action. Needs the extra `client-httpx`.
"""

import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
import httpx

from django_idempotency import exceptions
from django_idempotency.client.calls import DEFAULT_POLICY, UNKNOWN, Call, CallPolicy, is_hopeless
from django_idempotency.client.decisions import End, Retry, read_answer

__all__ = ["AsyncIdempotentTransport", "IdempotentTransport", "NoFinalAnswer", "OutcomeUnknown"]

# The request, or its answer, may have been lost. Other errors are the caller's own: an unknown scheme, a bad header.
_LOST = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)


class NoFinalAnswer(exceptions.NoFinalAnswer, httpx.RequestError):
    """`exceptions.NoFinalAnswer` as an error of httpx. Its cause is what the last attempt raised, if anything."""

    def __init__(self, call: Call, *, request: httpx.Request, response: httpx.Response | None) -> None:
        httpx.RequestError.__init__(self, call.given_up, request=request)
        self.key = call.key
        self.response = response


class OutcomeUnknown(exceptions.OutcomeUnknown, httpx.HTTPStatusError):
    """`exceptions.OutcomeUnknown` as an error of httpx, with the *key* and the *response*."""

    def __init__(self, call: Call, *, request: httpx.Request, response: httpx.Response) -> None:
        httpx.HTTPStatusError.__init__(self, UNKNOWN, request=request, response=response)
        self.message = UNKNOWN
        self.key = call.key


class IdempotentTransport(httpx.BaseTransport):
    """
    A transport around another *transport*, by default httpx's own. The request's body is read into memory, and so is
    the answer: half of one is none.

    *sleep* takes seconds. Raises `NoFinalAnswer` and `OutcomeUnknown`.
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | None = None,
        *,
        policy: CallPolicy = DEFAULT_POLICY,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._transport = transport or httpx.HTTPTransport()
        self._policy = policy
        self._sleep = sleep

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in self._policy.methods:
            return self._transport.handle_request(request)
        request.read()  # a stream could be sent once
        call = Call(self._policy, request.headers)
        while True:
            try:
                received = self._transport.handle_request(request)
                try:
                    body = b"".join(received.iter_raw())
                finally:
                    received.close()
            except _LOST as error:
                self._sleep(_after_loss(call, request, error))
            else:
                wait = _after_answer(call, request, received, body)
                if wait is None:
                    return _whole(received, body)
                self._sleep(wait)

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        self._transport.close()


class AsyncIdempotentTransport(httpx.AsyncBaseTransport):
    """`IdempotentTransport` for `httpx.AsyncClient`, on asyncio and trio."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        policy: CallPolicy = DEFAULT_POLICY,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._policy = policy
        self._sleep = sleep

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in self._policy.methods:
            return await self._transport.handle_async_request(request)
        await request.aread()
        call = Call(self._policy, request.headers)
        while True:
            try:
                received = await self._transport.handle_async_request(request)
                try:
                    body = b"".join([chunk async for chunk in received.aiter_raw()])
                finally:
                    await received.aclose()
            except _LOST as error:
                await self._sleep(_after_loss(call, request, error))
            else:
                wait = _after_answer(call, request, received, body)
                if wait is None:
                    return _whole(received, body)
                await self._sleep(wait)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        await self._transport.aclose()


def _after_loss(call: Call, request: httpx.Request, error: Exception) -> float:
    """The seconds to wait."""
    if is_hopeless(error):
        raise error
    verdict = call.after(None)
    if isinstance(verdict, Retry):
        return verdict.after
    raise NoFinalAnswer(call, request=request, response=None) from error


def _after_answer(call: Call, request: httpx.Request, received: httpx.Response, body: bytes) -> float | None:
    """The seconds to wait, or None if the answer is final."""
    response = _whole(received, body)
    response.request = request
    try:
        content = response.read()
    except httpx.DecodingError:
        content = b""  # whoever reads the answer gets this error
    verdict = call.after(read_answer(response.status_code, response.headers, content, call.policy.now()))
    match verdict:
        case Retry():
            return verdict.after
        case End.FINAL:
            return None
        case End.UNKNOWN:
            raise OutcomeUnknown(call, request=request, response=response)
        case End.SPENT:
            raise NoFinalAnswer(call, request=request, response=response)


def _whole(received: httpx.Response, body: bytes) -> httpx.Response:
    """*received* with its *body*, still encoded, as a client expects it of a transport."""
    return httpx.Response(
        received.status_code, headers=received.headers, stream=httpx.ByteStream(body), extensions=received.extensions
    )
