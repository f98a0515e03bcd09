"""
For `requests`: an adapter that sends a request until it has a final answer.

    session = requests.Session()
    session.mount("https://api.example.com/", IdempotentAdapter())

It is under the session, so redirects and authentication happen above it, and keep the key. Needs the extra
`client-requests`.
"""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from django_idempotency import exceptions
from django_idempotency.client.calls import DEFAULT_POLICY, UNKNOWN, Call, CallPolicy, is_hopeless
from django_idempotency.client.decisions import End, Retry, read_answer

__all__ = ["IdempotentAdapter", "NoFinalAnswer", "OutcomeUnknown"]

# The request, or its answer, may have been lost. Other errors are the caller's own: an invalid URL or header.
_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class NoFinalAnswer(exceptions.NoFinalAnswer, requests.RequestException):
    """`exceptions.NoFinalAnswer` as an error of requests. Its cause is what the last attempt raised, if anything."""

    def __init__(self, call: Call, *, request: requests.PreparedRequest, response: requests.Response | None) -> None:
        requests.RequestException.__init__(self, call.given_up, request=request, response=response)
        self.key = call.key


class OutcomeUnknown(exceptions.OutcomeUnknown, requests.HTTPError):
    """`exceptions.OutcomeUnknown` as an error of requests, with the *key* and the *response*."""

    def __init__(self, call: Call, *, request: requests.PreparedRequest, response: requests.Response) -> None:
        requests.HTTPError.__init__(self, UNKNOWN, request=request, response=response)
        self.message = UNKNOWN
        self.key = call.key


class IdempotentAdapter(HTTPAdapter):
    """
    An adapter for `Session.mount`. The request's body is read into memory, and so is the answer: half of one is none.

    An attempt of a call without a `timeout` has this *timeout*, because requests itself would wait for ever. *sleep*
    takes seconds, *options* are those of `HTTPAdapter`. Raises `NoFinalAnswer` and `OutcomeUnknown`.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "_policy", "_timeout", "_sleep"]  # what a pickled session keeps

    def __init__(
        self,
        *,
        policy: CallPolicy = DEFAULT_POLICY,
        timeout: timedelta = timedelta(seconds=30),
        sleep: Callable[[float], object] = time.sleep,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._policy = policy
        self._timeout = timeout.total_seconds()
        self._sleep = sleep

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        options: dict[str, Any] = {"stream": stream, "verify": verify, "cert": cert, "proxies": proxies}
        if request.method not in self._policy.methods:
            return super().send(request, timeout=timeout, **options)
        request.body = _read(request.body)  # a stream could be sent once
        call = Call(self._policy, request.headers)
        while True:
            last: requests.Response | None = None
            cause: Exception | None = None
            try:
                response = super().send(request, timeout=self._timeout if timeout is None else timeout, **options)
                with response:
                    response.content  # noqa: B018 reads it
            except _LOST as error:
                if is_hopeless(error):
                    raise
                verdict, cause = call.after(None), error
            else:
                answer = read_answer(response.status_code, response.headers, response.content, self._policy.now())
                verdict, last = call.after(answer), response
            match verdict:
                case Retry():
                    self._sleep(verdict.after)
                case End.FINAL:
                    return response
                case End.UNKNOWN:
                    raise OutcomeUnknown(call, request=request, response=response)
                case End.SPENT:
                    raise NoFinalAnswer(call, request=request, response=last) from cause


def _read(body: Any) -> bytes | str | None:
    """The whole *body*, which may be a file or an iterator."""
    if body is None or isinstance(body, bytes | str):
        return body
    parts = body.read() if hasattr(body, "read") else list(body)
    if isinstance(parts, bytes | str):
        return parts
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)
