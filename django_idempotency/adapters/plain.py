"""Django's own requests and responses: makes answers of responses, and responses of records. See `attempts`."""

import inspect
import logging
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from django.conf import settings
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.utils.http import http_date

from django_idempotency import outcomes
from django_idempotency.adapters.attempts import AttemptReader
from django_idempotency.adapters.messages import MESSAGES, add_messages, encode_messages
from django_idempotency.adapters.pages import refusal_page
from django_idempotency.core.decision import Answer
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.probe import Found
from django_idempotency.core.record import (
    LEFT_OUT,
    NEVER_STORED,
    OF_BODY,
    OF_RENDERING,
    CompletionRecord,
    encode_reference,
    storable_headers,
)
from django_idempotency.exceptions import PolicyError, Refusal, StoreUnavailable, TryAgain, UnstorableResponse

logger = logging.getLogger("django_idempotency")

PROBLEM = "application/problem+json"  # RFC 9457
# The 4xx that are answers: a decline that was written down, and a missing thing.
STORED_4XX = frozenset({HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
# Why an answer is not stored, for a warning.
REFUSED = "a refusal is not stored, unless the option `should_store` accepts it"
NOT_ACCEPTED = "the option `should_store` does not accept that answer"
NO_REDIRECT = "a form's key stores a redirect alone: redirect when the work is done"
# By the top package of what their handlers return, which becomes a response later: the name, and the page that helps.
GRAPHQL, JSON_RPC, NINJA = "protect-graphql", "protect-json-rpc", "protect-ninja"
FRAMEWORKS = {
    "graphql": ("GraphQL", GRAPHQL),
    "jsonrpcserver": ("JSON-RPC", JSON_RPC),
    "modernrpc": ("django-modern-rpc", JSON_RPC),
    "ninja": ("Django Ninja", NINJA),
    "pydantic": ("A framework of pydantic models (Django Ninja, FastAPI)", NINJA),
    "starlette": ("Starlette (FastAPI)", ""),
    "strawberry": ("Strawberry", GRAPHQL),
}
NO_TYPE = ""  # the media type of a response that gets its own; Django computes none
FORM_ANSWER = "_idempotency_form_answer"  # of a response that answers a form although it is no redirect


class PlainAdapter(AttemptReader):
    """A request of Django's own and its answer, under the *policy* of its view."""

    __slots__ = ("answer",)

    def __init__(self, request: Any, policy: ResolvedPolicy) -> None:
        super().__init__(request, policy)
        self.answer: Any = None  # what the option `replay` has rendered

    def capture(self, response: Any) -> Answer[Any]:
        """
        Turn the handler's *response* into an answer: the response for this caller, and its record for the next.

        Raises `UnstorableResponse` if it cannot be stored.
        """
        return self.make_answer(rendered(self.response_of(response)))

    def response_of(self, value: Any) -> Any:
        """What the framework makes of the *value* that a handler returns."""
        return value

    def make_answer(self, response: Any) -> Answer[Any]:
        """The same for a *response* that is rendered if it is to be stored."""
        if not isinstance(response, HttpResponseBase):
            if inspect.iscoroutine(response):
                response.close()
            raise UnstorableResponse(
                f"An idempotent view must return an HttpResponse, not {type(response).__name__}: its work was rolled"
                f" back.{_remedy_for(response, self.django_request)}"
            )
        should_store, status = self.policy.should_store, response.status_code
        summary = f"status {status}"
        shown_again = self._is_form_shown_again(response)
        if shown_again or not (is_answer(status) if should_store is None else should_store(response)):
            rule = NO_REDIRECT if shown_again else REFUSED if should_store is None else NOT_ACCEPTED
            return Answer(response, None, summary, rule if status < 500 else "")
        try:
            record = self._make_record(response)
        except Exception:
            _release(response)
            raise
        return Answer(
            response,
            record,
            summary,
            only_if_written=should_store is None
            and 300 <= status < 400
            and _leads_to_login(self.django_request, response),
            is_promise=not 400 <= status < 500 or status == HTTPStatus.PAYMENT_REQUIRED,
        )

    def is_answer(self, response: HttpResponseBase) -> bool:
        """Would a rendered *response* be stored? A redirect to LOGIN_URL counts as a refusal, even after a write."""
        should_store, status = self.policy.should_store, response.status_code
        if self._is_form_shown_again(response):
            return False
        if should_store is not None:
            return bool(should_store(response))
        return is_answer(status) and not (300 <= status < 400 and _leads_to_login(self.django_request, response))

    def _is_form_shown_again(self, response: HttpResponseBase) -> bool:
        """With its errors, it is no answer, although its status is 200."""
        return self.is_form and not outcomes.redirects(response) and not hasattr(response, FORM_ANSWER)

    def is_storable(self, response: HttpResponseBase) -> bool:
        """Can a rendered *response* be stored? Its content is not read if it streams."""
        if isinstance(response, HttpResponse):
            stores_content = self.policy.store_body and self.policy.record is None
            return not stores_content or len(response.content) <= self.policy.max_body
        return isinstance(response, FileResponse) and not response.is_async

    def _make_record(self, response: HttpResponseBase) -> CompletionRecord:
        """Make the record of *response*. Raises `UnstorableResponse` if there can be none."""
        policy = self.policy
        never = policy.unstored_headers or NEVER_STORED
        if policy.echo:
            never = never | {policy.header.lower()}  # each retry gets what it has sent
        instead, body = "", b""
        if policy.store_body and policy.record is None:
            body = _read_content(response, policy.max_body)
        elif not isinstance(response, HttpResponse) or response.content:  # an answer without a body is stored as it is
            _refuse_stream(response)
            if policy.record is None:
                instead, never = LEFT_OUT, never | OF_BODY
            else:
                instead, body = _encode_reference(policy.record(self.request, response), policy.max_body)
                never |= OF_RENDERING
        headers = storable_headers(response.headers.items(), never)
        if policy.expires_header is not None:
            headers += ((policy.expires_header, http_date(time.time() + policy.ttl)),)
        messages = encode_messages(self.django_request) if self.is_form else None
        if messages is not None:
            headers += ((MESSAGES, messages),)
        return CompletionRecord(
            status=response.status_code,
            reason=response.reason_phrase,
            headers=headers,
            body=body,
            instead=instead,
        )

    def check_replay(self, record: CompletionRecord) -> None:
        """
        Ask the option `replay_guard`, and let the option `replay` render what *record* has a reference to.

        Raises what they raise, and `PolicyError` without the option `replay`.
        """
        policy = self.policy
        if policy.replay_guard is not None:
            policy.replay_guard(self.request, record)
        if not record.is_reference:
            return
        if policy.replay is None:
            raise PolicyError(
                "What is stored for this key is a reference, and the view has no option `replay` to render the answer"
                " from it. Give it back its `record` and `replay` until such records have expired."
            )
        self.answer = policy.replay(self.request, record.reference)
        if not isinstance(self.answer, HttpResponseBase):
            raise PolicyError(f"The option 'replay' must return a response, not a {type(self.answer).__name__}.")

    def replay(self, record: CompletionRecord) -> Any:
        """Make the response of a replay, after `check_replay`."""
        return self.mark(record) if record.is_reference else self.fill(HttpResponse(record.body, NO_TYPE), record)

    def mark(self, record: CompletionRecord) -> Any:
        """
        Mark what the option `replay` has rendered as a replay, and give it the status of *record*, and its headers that
        are not set anew. A refusal stays as it is.
        """
        response = self.answer
        if response.status_code >= 400 and response.status_code != record.status:
            return response
        response.status_code = record.status
        response.reason_phrase = record.reason
        for name, value in self._headers(record):
            if value is not None:
                response.headers.setdefault(name, value)
        response.headers[self.policy.replayed_header] = "true"
        self._add_messages(record)
        return response

    def _headers(self, record: CompletionRecord) -> Iterable[tuple[str, str | None]]:
        """The headers of *record* for the client, but for those that `unstored_headers` has named since."""
        unstored = self.policy.unstored_headers or ()
        return [(name, value) for name, value in record.headers if name != MESSAGES and name.lower() not in unstored]

    def _add_messages(self, record: CompletionRecord) -> None:
        if self.is_form:
            for name, value in record.headers:
                if name == MESSAGES and value is not None:
                    add_messages(self.django_request, value)

    def fill(self, response: HttpResponse, record: CompletionRecord) -> HttpResponse:
        """Give *response*, made of the body of *record*, all the rest of it, and mark it as a replay."""
        response.status_code = record.status
        response.reason_phrase = record.reason
        headers = response.headers
        del headers["Content-Type"]
        # What has come out of a response needs no check of each character again. Django has no public way past it.
        store = headers._store
        for name, value in self._headers(record):
            if value is None:  # Content-Length
                value = str(len(record.body))
            if value.isascii() and name.isascii():
                store[name.lower()] = (name, value)
            else:
                headers[name] = value
        store[self.policy.replayed_header.lower()] = (self.policy.replayed_header, "true")
        self._add_messages(record)
        if 300 <= record.status < 400 and "Location" in response.headers:
            response.url = response.headers["Location"]  # type: ignore[attr-defined]  # as HttpResponseRedirect has it
        return response

    def complete(self, response: Any, record: CompletionRecord | None) -> Any:
        """*response*, of which *record* is the record, with what the options `echo` and `expires_header` ask for."""
        for name, value in self.sent_key().items():
            response.headers[name] = value
        if record is not None and self.policy.expires_header is not None:
            response.headers[self.policy.expires_header] = dict(record.headers)[self.policy.expires_header]
        return response

    def refuse(self, refusal: Refusal) -> HttpResponseBase:
        """
        Make problem details (RFC 9457) of *refusal*, or what the option `refuse` makes of it, or a page if a form was
        sent. Raises `PolicyError` if that option returns no response.
        """
        if isinstance(refusal, StoreUnavailable | TryAgain):
            # The request's transaction cannot be committed, because its connection is lost or the database has
            # cancelled it: let it end without an error.
            for connection in connections.all(initialized_only=True):
                if connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block:
                    connection.set_rollback(True)
        if self._is_page():
            return refusal_page(self.django_request, refusal, self.refusal_headers(refusal))
        if self.policy.refuse is None:
            response: HttpResponseBase = JsonResponse(
                refusal.problem(self.policy.docs_url), status=refusal.status, content_type=PROBLEM
            )
        else:
            response = self.policy.refuse(self.request, refusal)
            if not isinstance(response, HttpResponseBase):
                raise PolicyError(f"The option 'refuse' must return a response, not a {type(response).__name__}.")
        for name, value in self.refusal_headers(refusal).items():
            response.headers.setdefault(name, value)
        return response

    def _is_page(self) -> bool:
        """Is a refusal read by a person? A browser that sends a form without a key says that it wants a page."""
        accepts_page = "text/html" in self.django_request.META.get("HTTP_ACCEPT", "")
        return self.is_form or (accepts_page and self._may_have_field())

    def refusal_headers(self, refusal: Refusal) -> dict[str, str]:
        """
        `Retry-After` in seconds, if a retry helps, the `Link` to the API's own documentation (RFC 8288), and the key.
        """
        headers = self.sent_key()
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(refusal.retry_after)
        if self.policy.docs_url is not None:
            headers["Link"] = f'<{self.policy.docs_url}>; rel="describedby"'
        return headers


# --- parts of a response ---


def rendered(response: Any) -> Any:
    """Render the template of *response* here, because what cannot be rendered must not be committed."""
    if hasattr(response, "render") and not getattr(response, "is_rendered", True):
        return response.render()
    return response


def found_response(found: Found) -> Any:
    """The response that a probe has `Found`; of JSON it is made here."""
    if isinstance(found.answer, HttpResponseBase):
        return found.answer
    return JsonResponse(found.answer, status=found.status, safe=False)


def is_answer(status: int) -> bool:
    """The default of `should_store`: 2xx, 3xx, 402, 404, 410."""
    return 200 <= status < 400 or status in STORED_4XX


def _leads_to_login(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Does *response* redirect to the host and the path of `LOGIN_URL`?"""
    try:
        login, target = (
            urlsplit(urljoin(request.build_absolute_uri(), url))[1:3]
            for url in (resolve_url(settings.LOGIN_URL), response.headers["Location"])
        )
    except Exception as error:  # a wrong setting must not break a request that does not need it
        logger.warning("Cannot compare a redirect with LOGIN_URL (%r): %s", settings.LOGIN_URL, error)
        return False
    return login == target


def _remedy_for(value: Any, request: HttpRequest) -> str:
    """What to do with a *value* that is no response, if it can be told what returned it."""
    if inspect.isawaitable(value):
        return " Nothing awaits it: declare the view as `async def`."
    # Ninja returns plain values, too, and its view is known by its module.
    view = getattr(request.resolver_match, "func", None)
    for module in (getattr(view, "__module__", ""), *(base.__module__ for base in type(value).__mro__)):
        name, page = FRAMEWORKS.get(module.partition(".")[0], ("", ""))
        if name:
            remedy = "import `idempotent` from django_idempotency.contrib.ninja" if page == NINJA else ""
            remedy = remedy or "protect the view that returns that response"
            where = f" (docs/how-to/{page}.md)" if page else ""
            return f" {name} makes a response of it after the view: {remedy}{where}."
    return ""


def _release(response: HttpResponseBase) -> None:
    """Close the resources of a response that will not be sent. Its own `close` would signal that the request ended."""
    for close in response._resource_closers:  # type: ignore[attr-defined]
        try:
            close()
        except Exception:  # the error on its way says what is wrong with the response
            logger.exception("A response that cannot be stored could not be closed")


def _refuse_stream(response: HttpResponseBase) -> None:
    """Raise `UnstorableResponse` for a *response* whose body is made after COMMIT, by code that nothing covers."""
    if not isinstance(response, HttpResponse) and (not isinstance(response, FileResponse) or response.is_async):
        raise UnstorableResponse(
            f"A {type(response).__name__} cannot be stored, so its work was rolled back. Return an HttpResponse, or a"
            " FileResponse that is no larger than the option `max_body`."
        )


def _encode_reference(reference: object, max_body: int) -> tuple[str, bytes]:
    """What a *reference* of the option `record` is stored as. Raises `UnstorableResponse` if it cannot be stored."""
    remedy = (
        "What `record` returns is stored in the place of the body, and the work was rolled back: return bytes or JSON"
    )
    try:
        instead, stored = encode_reference(reference)
    except ValueError as error:
        raise UnstorableResponse(f"{remedy} ({error}).") from error
    if len(stored) > max_body:
        raise UnstorableResponse(f"{remedy} of at most {max_body} bytes (option `max_body`), not {len(stored)}.")
    return instead, stored


def _read_content(response: HttpResponseBase, max_body: int) -> bytes:
    """The body of *response*. Raises `UnstorableResponse` for a streaming one, and for more than *max_body* bytes."""
    _refuse_stream(response)
    if isinstance(response, HttpResponse):
        body = response.content
    else:
        # Read here, one chunk past the limit at most; the response keeps its own closers.
        chunks, size = [], 0
        file = cast(FileResponse, response)
        for chunk in cast(Iterable[bytes], file.streaming_content):  # it is not async
            chunks.append(chunk)
            size += len(chunk)
            if size > max_body:
                break
        body = b"".join(chunks)
        file.streaming_content = [body]
    if len(body) > max_body:
        raise UnstorableResponse(
            f"The response has {len(body)} bytes and the option `max_body` allows {max_body}: its work was rolled back."
            " Raise `max_body`, or answer with a reference to the large thing."
        )
    return body
