"""
Django REST framework's requests and responses.

DRF finalises and renders a response after the handler, outside its transaction. Here both happen inside it: what cannot
be rendered rolls back, and what is stored is what the client gets.
"""

import json
from typing import Any, NoReturn

from django.http.response import HttpResponseBase
from rest_framework.exceptions import APIException
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Empty, Request
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from django_idempotency import exceptions
from django_idempotency.adapters import plain
from django_idempotency.adapters.body import form_as_json
from django_idempotency.core.decision import Answer
from django_idempotency.core.fingerprint import canonical_json
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import Refusal

# --- read ---


def read(request: Request, policy: ResolvedPolicy) -> Attempt | Refusal | None:
    """What `plain.read` reads; the project's callables get DRF's *request*."""
    return plain.read(request._request, policy, request, lambda: _parsed(request))


def _parsed(request: Request) -> bytes | None:
    """The data that a parser already made of the body; DRF before 3.17 keeps no bytes of what it parses."""
    data: Any = request._full_data  # type: ignore[attr-defined]
    if data is Empty:  # nobody has parsed it, only consumed it
        return None
    try:
        return form_as_json(data) if hasattr(data, "lists") else canonical_json(data)
    except (TypeError, ValueError):
        return None


# --- capture ---


def capture(view: APIView, request: Request, response: Any, policy: ResolvedPolicy) -> Answer[Any]:
    """
    What becomes of the handler's *response*. Raises as `plain.capture` does.

    An answer that may be kept is finalised and rendered here, in the transaction. One that is not is left to the view's
    dispatch, so that what the project's `finalize_response` writes about a refusal is not rolled back with it.
    """
    if isinstance(response, HttpResponseBase) and (
        policy.should_store is not None or plain.is_answer(response.status_code)
    ):
        context = request.parser_context
        finalize: Any = view.finalize_response  # the stubs want a Response; DRF takes any
        response = plain.rendered(finalize(request, response, *context["args"], **context["kwargs"]))
        _leave_alone(view, response)
    return plain.capture(response, policy, request._request)


def _leave_alone(view: APIView, final: HttpResponseBase) -> None:
    """Let the view's dispatch, which finalises what the handler returns, return *final* as it is."""
    finalize = view.finalize_response

    def finalize_response(request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        return response if response is final else finalize(request, response, *args, **kwargs)

    view.finalize_response = finalize_response  # type: ignore[method-assign]


# --- replay ---


class ReplayedResponse(Response):
    """A rendered response made of a record. `data` is decoded when it is asked for: a replay seldom needs it."""

    _data: Any
    renderer_context: Any

    @property
    def data(self) -> Any:
        if self._data is None and "json" in self.headers.get("Content-Type", ""):
            try:
                self._data = json.loads(self.content)
            except ValueError:
                return None
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value


def replay(view: APIView, request: Request, record: CompletionRecord, policy: ResolvedPolicy) -> Response:
    """The stored answer as a rendered and final `Response`."""
    response = ReplayedResponse()
    plain.replay(record, policy, response)
    response.accepted_renderer = request.accepted_renderer
    response.accepted_media_type = request.accepted_media_type or ""
    response.renderer_context = view.get_renderer_context()
    _leave_alone(view, response)
    return response


# --- refuse ---


class ProblemRenderer(JSONRenderer):
    """RFC 9457, whatever was negotiated: a refusal is for a program to read."""

    media_type = plain.PROBLEM
    format = "problem"


def _api_exception(refusal: type[Refusal]) -> type[APIException]:
    """*refusal* as DRF wants it: a project's `EXCEPTION_HANDLER` formats it like all its others."""
    return type(
        refusal.__name__,
        (refusal, APIException),
        {
            "__doc__": refusal.__doc__,
            "__module__": __name__,
            "status_code": refusal.status,
            "default_detail": refusal.title,
            "default_code": refusal.code,
            "wait": refusal.retry_after,  # DRF's name for the seconds of Retry-After
        },
    )


_API_EXCEPTIONS: dict[type[Refusal], type[APIException]] = {
    refusal: _api_exception(refusal)
    for refusal in (
        exceptions.KeyMissing,
        exceptions.KeyInvalid,
        exceptions.BodyIncomplete,
        exceptions.LengthRequired,
        exceptions.KeyReused,
        exceptions.RequestInProgress,
        exceptions.OutcomeUnknown,
        exceptions.StoreUnavailable,
    )
}


def refuse(view: APIView, refusal: Refusal, docs_url: str | None) -> NoReturn:
    """
    Raise *refusal* as an `APIException` for DRF to handle.

    What DRF's own exception handler makes of it becomes problem details; what a project's makes of it stays as it is.
    In both, `Retry-After` and `Link` are there.
    """
    kind = _API_EXCEPTIONS.get(type(refusal))
    if kind is None:
        kind = _API_EXCEPTIONS.setdefault(type(refusal), _api_exception(type(refusal)))
    error = kind(refusal.message)
    finalize = view.finalize_response

    def finalize_response(request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(response, "exception", False) or response.status_code != error.status_code:
            return finalize(request, response, *args, **kwargs)  # an answer of somebody else's
        if view.get_exception_handler() is exception_handler and response.data == {"detail": error.detail}:
            response.data = refusal.problem(docs_url)
            request.accepted_renderer, request.accepted_media_type = ProblemRenderer(), ProblemRenderer.media_type
        for name, value in plain.refusal_headers(refusal, docs_url).items():
            response.headers.setdefault(name, value)
        return finalize(request, response, *args, **kwargs)

    view.finalize_response = finalize_response  # type: ignore[method-assign]
    raise error from refusal


# --- the verbs, for one request ---


class DrfAdapter(plain.PlainAdapter):
    """One of DRF's requests, in the view that has it."""

    __slots__ = ("view",)

    def __init__(self, request: Request) -> None:
        self.request = request
        self.django_request = request._request
        self.view = request.parser_context["view"]

    def read(self, policy: ResolvedPolicy) -> Attempt | Refusal | None:
        return read(self.request, policy)

    def capture(self, response: Any, policy: ResolvedPolicy) -> Answer[Any]:
        return capture(self.view, self.request, response, policy)

    def replay(self, record: CompletionRecord, policy: ResolvedPolicy) -> Response:
        return replay(self.view, self.request, record, policy)

    def refuse(self, refusal: Refusal, policy: ResolvedPolicy) -> NoReturn:
        refuse(self.view, refusal, policy.docs_url)
