"""Django's own requests and responses. The adapter of DRF builds on it."""

import inspect
import logging
from collections.abc import Callable, Iterable
from hashlib import sha256
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from django.conf import settings
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.urls import Resolver404, resolve

from django_idempotency.adapters.body import body_digest, receive
from django_idempotency.adapters.scope import default_scope
from django_idempotency.core.decision import Answer
from django_idempotency.core.fingerprint import check_fingerprint, digest, parse_query
from django_idempotency.core.keys import Attempt, Identity, check_key, parse_key, storable_text
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import CompletionRecord, storable_headers
from django_idempotency.exceptions import (
    KeyInvalid,
    KeyMissing,
    Refusal,
    StoreUnavailable,
    UnstorableResponse,
)

logger = logging.getLogger("django_idempotency")

PROBLEM = "application/problem+json"  # RFC 9457
# The 4xx that are answers: a decline that was written down, and a thing that is not there.
STORED_4XX = frozenset({HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
# Why an answer is not kept, as a warning says it.
REFUSED = "a refusal is not kept; if it is the answer to keep, the option `should_store` says so"
NOT_ACCEPTED = "the option `should_store` does not accept that answer"
PRECONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE")

# --- read ---


def read(
    request: HttpRequest,
    policy: ResolvedPolicy,
    seen: Any = None,
    parsed: Callable[[], bytes | None] | None = None,
) -> Attempt | Refusal | None:
    """
    The attempt that *request* makes, or None if it carries no key and needs none.

    A refusal if the key is malformed, or missing although the policy requires one, or if the body is incomplete.

    *seen* is the request as the view sees it (DRF's, in a DRF view): the project's callables get that one. *parsed* is
    for `body_digest`.
    """
    seen = request if seen is None else seen
    incomplete = None if policy.key is None else receive(request)  # kept, before the project's callable reads it
    key = _key(request, policy, seen)
    if key is None or isinstance(key, Refusal):
        return key
    if policy.key is None:
        incomplete = receive(request)
    if incomplete is not None:
        return incomplete
    scope = default_scope(seen) if policy.scope is None else storable_text("scope", policy.scope(seen))
    host = host_name(request)
    path = route(request)
    operation = policy.operation
    if operation is None:
        operation = f"{request.method} {path}"
    elif not isinstance(operation, str):
        operation = storable_text("operation", operation(seen))
    if policy.fingerprint is None:
        fingerprint = digest(b"request", *meaning(request), body_digest(request, parsed))
    else:
        fingerprint = sha256(check_fingerprint(policy.fingerprint(seen))).digest()
    return Attempt(
        identity=Identity(scope, operation, key),
        fingerprint=fingerprint,
        ttl=policy.ttl,
        request=f"{request.method} {host} {path}",
        request_id=request_id(request),
    )


def _key(request: HttpRequest, policy: ResolvedPolicy, seen: Any) -> str | Refusal | None:
    # Outside the `try`: the project's callable may start operations of its own, whose refusals are not this request's.
    made = None if policy.key is None else policy.key(seen)
    try:
        if policy.key is not None:
            key = None if made is None else check_key(made)
        else:
            value = request.META.get(policy.meta_name)
            key = None if value is None else parse_key(value)
        if key is None and policy.required:
            return KeyMissing(f"This action needs the header {policy.header}: a new key for each intended action.")
        if key is not None and policy.key_format is not None and not policy.key_format(key):
            return KeyInvalid("The idempotency key does not have the format that this action asks for.")
    except KeyInvalid as refusal:
        return refusal
    return key


def route(request: HttpRequest) -> str:
    """The route that *request* was resolved by, as the URLconf spells it; its path where no route leads there."""
    match = request.resolver_match
    if match is None:  # RequestFactory resolves nothing
        try:
            match = resolve(request.path_info, getattr(request, "urlconf", None))
        except Resolver404:
            return request.path
    return match.route


def host_name(request: HttpRequest) -> str:
    """The host that *request* was sent to, without a default port and the dot of the root: clients differ in both."""
    return request.get_host().lower().removesuffix(":443").removesuffix(":80").removesuffix(".")


def meaning(request: HttpRequest) -> list[bytes]:
    """What a request means, beside its body: method, host, path, query, media type and preconditions."""
    meta = request.META
    query = meta.get("QUERY_STRING")
    texts = (
        request.method or "",
        host_name(request),
        request.path,
        (request.content_type or "").lower(),
        *(meta.get(name, "") for name in PRECONDITIONS),
    )
    return [parse_query(query) if query else b"", *[text.encode(errors="surrogateescape") for text in texts]]


def request_id(request: HttpRequest) -> str:
    """The project's own id of *request*, where a middleware or a proxy gave it one."""
    for value in (
        getattr(request, "request_id", None),
        getattr(request, "id", None),
        request.META.get("HTTP_X_REQUEST_ID"),
    ):
        if value:
            return "".join(character for character in str(value)[:255] if character.isprintable())
    return ""


# --- capture ---


def rendered(response: Any) -> Any:
    """*response*, its template rendered: here, because what cannot be rendered must not be committed."""
    if hasattr(response, "render") and not getattr(response, "is_rendered", True):
        return response.render()
    return response


def capture(response: Any, policy: ResolvedPolicy, request: HttpRequest) -> Answer[Any]:
    """
    What becomes of the handler's *response* to *request*: itself for this caller, and its record for the next.

    Raises `UnstorableResponse` for one that cannot be stored.
    """
    if not isinstance(response, HttpResponseBase):
        if inspect.iscoroutine(response):
            response.close()
        raise UnstorableResponse(
            f"An idempotent view must return an HttpResponse, not {type(response).__name__}: its work was rolled back."
        )
    status = response.status_code
    summary = f"status {status}"
    if policy.should_store is None:
        if not is_answer(status):
            return Answer(response, None, summary, REFUSED if status < 500 else "")
    elif not policy.should_store(response):
        return Answer(response, None, summary, NOT_ACCEPTED if status < 500 else "")
    try:
        body = _content(response, policy.max_body)
        if len(body) > policy.max_body:
            raise UnstorableResponse(
                f"The response has {len(body)} bytes and the option `max_body` allows {policy.max_body}: its work was"
                " rolled back. Raise `max_body`, or answer with a reference to the large thing."
            )
    except UnstorableResponse:
        _release(response)
        raise
    record = CompletionRecord(
        status=status,
        reason=response.reason_phrase,
        headers=storable_headers(response.headers.items()),
        body=body,
    )
    return Answer(
        response,
        record,
        summary,
        only_if_written=policy.should_store is None and 300 <= status < 400 and _leads_to_login(request, response),
        is_promise=not 400 <= status < 500 or status == HTTPStatus.PAYMENT_REQUIRED,
    )


def is_answer(status: int) -> bool:
    """The default of `should_store`: 2xx, 3xx, 402, 404, 410."""
    return 200 <= status < 400 or status in STORED_4XX


def _leads_to_login(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Whether *response* redirects to `LOGIN_URL`, host and path alike."""
    try:
        login, target = (
            urlsplit(urljoin(request.build_absolute_uri(), url))[1:3]
            for url in (resolve_url(settings.LOGIN_URL), response.headers["Location"])
        )
    except Exception as error:  # a setting of the project's breaks no request that does not need it
        logger.warning("Cannot compare a redirect with LOGIN_URL (%r): %s", settings.LOGIN_URL, error)
        return False
    return login == target


def _release(response: HttpResponseBase) -> None:
    """Close what a response holds that will not be sent. Its own `close` would say that the request is finished."""
    for close in response._resource_closers:  # type: ignore[attr-defined]
        try:
            close()
        except Exception:  # the error on its way says what is wrong with the response; this one is logged beside it
            logger.exception("A response that cannot be stored could not be closed")


def _content(response: HttpResponseBase, max_body: int) -> bytes:
    if isinstance(response, HttpResponse):
        return response.content
    if not isinstance(response, FileResponse) or response.is_async:
        raise UnstorableResponse(
            f"A {type(response).__name__} cannot be stored, so its work was rolled back. Return an HttpResponse, or a"
            " FileResponse that is no larger than the option `max_body`."
        )
    # Read here, one chunk past the limit at most; the response keeps its own closers.
    chunks, size = [], 0
    for chunk in cast(Iterable[bytes], response.streaming_content):  # it is not async
        chunks.append(chunk)
        size += len(chunk)
        if size > max_body:
            break
    body = b"".join(chunks)
    response.streaming_content = [body]
    return body


# --- replay ---


def replay(record: CompletionRecord, policy: ResolvedPolicy, response: HttpResponse | None = None) -> HttpResponse:
    """The stored answer, as *response* (a new `HttpResponse` where None), marked as a replay."""
    if response is None:
        response = HttpResponse()
    response.status_code = record.status
    response.reason_phrase = record.reason
    response.content = record.body
    del response.headers["Content-Type"]
    for name, value in record.headers:
        response.headers[name] = str(len(record.body)) if value is None else value  # only Content-Length is None
    response.headers[policy.replayed_header] = "true"
    if 300 <= record.status < 400 and "Location" in response.headers:
        response.url = response.headers["Location"]  # type: ignore[attr-defined]  # as HttpResponseRedirect has it
    return response


# --- refuse ---


def refuse(refusal: Refusal, docs_url: str | None) -> HttpResponse:
    """*refusal* as problem details (RFC 9457)."""
    if isinstance(refusal, StoreUnavailable):
        # The connection is gone, so the request's transaction cannot be committed: let it end without an error.
        for connection in connections.all(initialized_only=True):
            if connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block:
                connection.set_rollback(True)
    response = JsonResponse(
        refusal.problem(docs_url),
        status=refusal.status,
        content_type=PROBLEM,
        headers=refusal_headers(refusal, docs_url),
    )
    return response


def refusal_headers(refusal: Refusal, docs_url: str | None) -> dict[str, str]:
    """`Retry-After` in seconds, where a retry helps, and the `Link` to the API's own documentation (RFC 8288)."""
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if docs_url is not None:
        headers["Link"] = f'<{docs_url}>; rel="describedby"'
    return headers


# --- the verbs, for one request ---


class PlainAdapter:
    """One of Django's own requests."""

    __slots__ = ("django_request", "request")

    def __init__(self, request: HttpRequest) -> None:
        self.request: Any = request
        self.django_request: Any = request

    def read(self, policy: ResolvedPolicy) -> Attempt | Refusal | None:
        return read(self.request, policy)

    def capture(self, response: Any, policy: ResolvedPolicy) -> Answer[Any]:
        return capture(rendered(response), policy, self.request)

    def replay(self, record: CompletionRecord, policy: ResolvedPolicy) -> HttpResponse:
        return replay(record, policy)

    def refuse(self, refusal: Refusal, policy: ResolvedPolicy) -> HttpResponse:
        return refuse(refusal, policy.docs_url)
