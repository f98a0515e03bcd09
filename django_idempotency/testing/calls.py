"""
Requests and replies: a `Call` describes one request, and any callable that takes a key and returns a response is a call
too.

A call does not contain its key, so the same call serves for duplicates, races and kills. A `Call` is plain data and
makes a new client for each request, so forked processes can send it.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, ClientHandler, encode_multipart
from django.urls import Resolver404

from django_idempotency import conf
from django_idempotency.core.keys import time_ordered_key
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import OF_BODY
from django_idempotency.exceptions import PolicyError, Refusal
from django_idempotency.protection.routes import view_of

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
LONGEST_BODY = 200  # characters of a body that are shown
POLL = 0.01  # seconds between two tries of a client that has to retry

# Sends a request with the key, or without one if it is None. Returns the response, or the result of a @once function.
Sender = Callable[[str | None], Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """
    One request, to be sent with any key: `Call.post("/payments/", {"amount": 10}, user=user)`.

    *data* is sent as *content_type*: JSON (the default), a form, or multipart with files; strings and bytes unchanged.
    If the payload contains the key, *data* is a callable of the key, and *header* is None.

    *user* sends it, without password or session. The kit reads the user again for each request, and a deleted user is
    anonymous; DRF's authenticators do not run. If they matter, send their *headers* (`Authorization`), or give a
    *client* that is logged in, or a callable that makes one; the client then decides on the user.
    """

    method: str
    path: str
    data: Any = None
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    user: Any = None
    client: Client | Callable[[], Client] | None = None
    header: str | None = "Idempotency-Key"

    @classmethod
    def post(cls, path: str, data: Any = None, **more: Any) -> "Call":
        """A POST; *more* are the fields of a call."""
        return cls(method="POST", path=path, data=data, **more)

    @classmethod
    def patch(cls, path: str, data: Any = None, **more: Any) -> "Call":
        """A PATCH; *more* are the fields of a call."""
        return cls(method="PATCH", path=path, data=data, **more)

    @classmethod
    def put(cls, path: str, data: Any = None, **more: Any) -> "Call":
        """A PUT; *more* are the fields of a call."""
        return cls(method="PUT", path=path, data=data, **more)

    @classmethod
    def delete(cls, path: str, data: Any = None, **more: Any) -> "Call":
        """A DELETE; *more* are the fields of a call."""
        return cls(method="DELETE", path=path, data=data, **more)

    @classmethod
    def get(cls, path: str, **more: Any) -> "Call":
        """A GET, with its query in *path*; *more* are the fields of a call."""
        return cls(method="GET", path=path, **more)

    @classmethod
    def head(cls, path: str, **more: Any) -> "Call":
        """A HEAD; *more* are the fields of a call."""
        return cls(method="HEAD", path=path, **more)

    @classmethod
    def options(cls, path: str, **more: Any) -> "Call":
        """An OPTIONS; *more* are the fields of a call."""
        return cls(method="OPTIONS", path=path, **more)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def __call__(self, key: str | None) -> HttpResponseBase:
        """Send the request with *key*, or without one if it is None. An exception of the view is an answer of 500."""
        headers = dict(self.headers)
        if key is not None and self.header is not None:
            headers[self.header] = key
        body, content_type = self._encoded(key)
        client = _Visitor(self.user) if self.client is None else self.client
        client = client if isinstance(client, Client) else client()
        response: HttpResponseBase = client.generic(
            self.method, self.path, data=body, content_type=content_type, headers=headers
        )
        return response

    def changed(self, **changes: Any) -> "Call":
        """This call with some of its fields changed: `call.changed(data={"amount": 11})`."""
        if "user" in changes and self.client is not None and "client" not in changes:
            changes["client"] = None
        return replace(self, **changes)

    def with_other_payload(self) -> "Call":
        """This call with one more member in its payload, or in its query if the payload is no mapping."""
        if isinstance(self.data, Mapping):
            return replace(self, data={**self.data, "of_another_request": "1"})
        mark = "&" if "?" in self.path else "?"
        return replace(self, path=f"{self.path}{mark}of_another_request=1")

    def _encoded(self, key: str | None) -> tuple[Any, str]:
        data = self.data(key) if callable(self.data) else self.data
        if data is None:
            return b"", self.content_type
        if isinstance(data, (str, bytes)):
            return data, self.content_type
        if self.content_type.startswith("multipart/"):
            for value in data.values():
                for file in value if isinstance(value, (list, tuple)) else [value]:
                    if hasattr(file, "seek"):
                        file.seek(0)  # an earlier request has read it
            return encode_multipart(BOUNDARY, data), MULTIPART_CONTENT
        if self.content_type.startswith(FORM):
            return urlencode(data, doseq=True), self.content_type
        return json.dumps(data, cls=DjangoJSONEncoder), self.content_type


class _Visitor(Client):
    """A client of *user* that keeps nothing from one request to the next, and writes no session."""

    def __init__(self, user: Any) -> None:
        super().__init__(raise_request_exception=False)
        self.handler = _VisitorHandler(user, enforce_csrf_checks=False)


class _VisitorHandler(ClientHandler):
    def __init__(self, user: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user

    def get_response(self, request: HttpRequest) -> Any:
        if self.user is not None:
            # Read again, as an authenticator does: a handler that was rolled back may have changed the object.
            manager = getattr(type(self.user), "_base_manager", None)
            found = manager.using(self.user._state.db).filter(pk=self.user.pk) if manager is not None else [self.user]
            for user in found:  # none, if a request has deleted the user
                request._cached_user = user  # type: ignore[attr-defined]  # AuthenticationMiddleware's
                request._acached_user = user  # type: ignore[attr-defined]
                request._force_auth_user = user  # type: ignore[attr-defined]  # DRF's force_authenticate
        return super().get_response(request)


# --- replies ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply to a client. *error* is the exception that a server would have logged, *code* that of a refusal."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names
    body: bytes = b""
    replayed: bool = False
    code: str = ""
    error: str = ""
    method: str = ""
    path: str = ""
    view: str = ""  # its dotted name
    required: bool = False  # by the policy of the view
    replayed_header: str = ""  # by the policy of the view, in lower case
    stores_body: bool = True  # by the policy of the view
    unstored: frozenset[str] = frozenset()  # headers, in lower case, that no replay has, by the policy of the view

    def __str__(self) -> str:
        text = f"{self.status} {self.code}".rstrip()
        if self.error:  # a server's page for an error says less
            return f"{text} ({self.error})"
        body = " ".join(self.body.decode(errors="replace").split())
        return f"{text} {body if len(body) <= LONGEST_BODY else body[:LONGEST_BODY] + '…'}".rstrip()

    @property
    def kept(self) -> tuple[int, bytes]:
        """Its status and its body, as far as a replay has that."""
        return self.status, self.body if self.stores_body else b""

    @property
    def is_result(self) -> bool:
        """Is it the result of a function, such as one of `@once`? That does not show whether it was replayed."""
        return self.status == 200 and not self.method and not self.headers

    @property
    def in_progress(self) -> bool:
        """Does the client have to retry: another request with this key runs, or the store is unavailable?"""
        return self.status in (409, 503) and (
            self.code in ("request-in-progress", "store-unavailable")
            or (not self.code and "retry-after" in self.headers)
        )


def new_key() -> str:
    """An unused key: a UUID of version 7, which a view with `key_max_age` takes, too."""
    return time_ordered_key(time.time_ns() // 1_000_000, os.urandom(10))


def send(call: Sender, key: str | None) -> Reply:
    """Send *call* with *key*. An exception that it raises is a reply too: that of a refusal, or a 500."""
    try:
        answer = call(key)
    except Refusal as refusal:
        return Reply(status=refusal.status, code=refusal.code, error=describe_error(refusal))
    except Exception as error:  # a client that raises the view's exceptions, as Django's own does
        return Reply(status=500, error=describe_error(error))
    if isinstance(answer, HttpResponseBase):
        return make_reply(answer)
    return Reply(status=200, body=json.dumps(answer, cls=DjangoJSONEncoder, sort_keys=True).encode())


def send_until_final(call: Sender, key: str | None, patience: float = 30) -> Reply:
    """Send *call* with *key*, and retry while the reply demands it, for at most *patience* seconds."""
    tries_left = patience / POLL  # counted, because a test may have stopped the clock
    while True:
        reply = send(call, key)
        tries_left -= 1
        if not reply.in_progress or tries_left <= 0:
            return reply
        time.sleep(POLL)


def describe_error(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def make_reply(response: Any) -> Reply:
    """Make a `Reply` of a test client's *response*."""
    body = b"".join(response.streaming_content) if response.streaming else response.content
    headers = {name.lower(): value for name, value in response.headers.items()}
    raised = getattr(response, "exc_info", None)
    match = _match(response)
    request = getattr(response, "request", None) or {}
    method = request.get("REQUEST_METHOD", "")
    policy = _policy(match, method)
    replayed_header = policy.replayed_header.lower()
    stores_body = policy.store_body or policy.record is not None
    return Reply(
        status=response.status_code,
        headers=headers,
        body=bytes(body),
        replayed=headers.get(replayed_header) == "true",
        code=_code(headers.get("content-type", ""), body) if response.status_code >= 400 else "",
        error=describe_error(raised[1]) if raised else "",
        method=method,
        path=request.get("PATH_INFO", ""),
        view="" if match is None else match._func_path,
        required=policy.required,
        replayed_header=replayed_header,
        stores_body=stores_body,
        unstored=(policy.unstored_headers or frozenset()) | (frozenset() if stores_body else OF_BODY),
    )


def _match(response: Any) -> Any:
    """The URL's match; None if there is none."""
    match = getattr(response, "resolver_match", None)
    try:
        return match if getattr(match, "func", None) is not None else None  # it is resolved only now
    except Resolver404:
        return None


def _code(content_type: str, body: bytes) -> str:
    """The member `code` of a JSON body, as problem details have it; or an empty string."""
    if "json" not in content_type:
        return ""
    try:
        problem = json.loads(body)
    except ValueError:
        return ""
    return str(problem.get("code", "")) if isinstance(problem, dict) else ""


def _policy(match: Any, method: str) -> ResolvedPolicy:
    """The policy of the handler that was called, or the project's."""
    for handler in () if match is None else view_of(match.func).handlers:
        if not handler.methods or method in handler.methods:
            with suppress(PolicyError):  # the request itself has failed with it
                return conf.resolved(*handler.policies)
    return conf.resolved()
