"""
Requests and responses of Django REST framework.

DRF finalises and renders a response after the handler, outside its transaction. Here both happen inside it, so that a
response that cannot be rendered rolls back, and the stored answer is the one that the client gets.
"""

import json
from collections.abc import Hashable
from functools import cache
from typing import Any, cast

from django.http.response import HttpResponse, HttpResponseBase
from rest_framework.exceptions import APIException
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Empty, Request
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from django_idempotency.adapters import plain
from django_idempotency.adapters.body import form_as_json
from django_idempotency.core.decision import Answer
from django_idempotency.core.fingerprint import canonical_json
from django_idempotency.core.keys import Attempt
from django_idempotency.core.observation import OBSERVE
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import Refusal


class ReplayedResponse(Response):
    """A rendered response of a stored *body*. `data` is decoded at first use, because a replay seldom needs it."""

    # What a response sets for its rendering.
    template_name: Any = None
    _request: Any = None
    _data: Any = None
    context_data = using = content_type = None
    exception = False
    _post_render_callbacks: Any = ()
    renderer_context: Any

    def __init__(self, body: bytes) -> None:
        HttpResponse.__init__(self, body, plain.NO_TYPE)

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


class ProblemRenderer(JSONRenderer):
    """RFC 9457, whatever was negotiated, because a program reads the refusal."""

    media_type = plain.PROBLEM
    format = "problem"


@cache
def _api_exception(refusal: Any) -> type[APIException]:
    """Make *refusal* an `APIException`, so that a project's `EXCEPTION_HANDLER` formats it like any other."""
    return type(
        refusal.__name__,
        (refusal, APIException),
        {
            "__doc__": refusal.__doc__,
            "__module__": __name__,
            "status_code": refusal.status,
            "default_detail": refusal.title,
            "default_code": refusal.code,
        },
    )


class DrfAdapter(plain.PlainAdapter):
    """A request of DRF, in the view that handles it."""

    __slots__ = ("view",)

    request: Request
    reads_forms = False  # clients of an API send the header

    def __init__(self, request: Request, policy: ResolvedPolicy) -> None:
        super().__init__(request, policy)
        self.django_request = request._request
        self.view: APIView = request.parser_context["view"]

    def read(self) -> Attempt | Refusal | None:
        if self.policy.echo and self.policy.mode != OBSERVE:
            self.view.headers.update(self.sent_key())  # for each answer, also to an exception of the handler
        return super().read()

    def encode_parsed_body(self) -> bytes | None:
        data: Any = self.request._full_data  # type: ignore[attr-defined]  # DRF before 3.17 keeps no bytes
        if data is Empty:  # the body was consumed, but not parsed
            return None
        try:
            return form_as_json(data) if hasattr(data, "lists") else canonical_json(data)
        except (TypeError, ValueError):
            return None

    def capture(self, response: Any) -> Answer[Any]:
        """
        Finalise and render a *response* that may be stored, in the transaction; then as `PlainAdapter.capture`.

        Any other is left to the view's dispatch, so that what the project's `finalize_response` writes about a refusal
        is not rolled back.
        """
        if isinstance(response, HttpResponseBase) and (
            self.policy.should_store is not None or plain.is_answer(response.status_code)
        ):
            context = self.request.parser_context
            finalize: Any = self.view.finalize_response  # the stubs want a Response; DRF takes any
            response = plain.rendered(finalize(self.request, response, *context["args"], **context["kwargs"]))
            self._leave_alone(response)
        return self.make_answer(response)

    def replay(self, record: CompletionRecord) -> Any:
        if record.is_reference:
            return self.mark(record)  # finalised by the view's dispatch, like what a handler returns
        response = ReplayedResponse(record.body)
        self.fill(response, record)
        response.accepted_renderer = self.request.accepted_renderer
        response.accepted_media_type = self.request.accepted_media_type or ""
        response.renderer_context = self.view.get_renderer_context()
        self._leave_alone(response)
        return response

    def _leave_alone(self, final: HttpResponseBase) -> None:
        """Let the view's dispatch, which finalises what the handler returns, return *final* unchanged."""
        finalize = self.view.finalize_response

        def finalize_response(request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
            return response if response is final else finalize(request, response, *args, **kwargs)

        self.view.finalize_response = finalize_response  # type: ignore[method-assign]

    def refuse(self, refusal: Refusal) -> HttpResponseBase:
        """
        Raise *refusal* as an `APIException`, which DRF handles, or return what the option `refuse` makes of it.

        The result of DRF's own exception handler becomes problem details; that of a project's stays as it is. Both get
        `Retry-After` and `Link`.
        """
        if self.policy.refuse is not None:
            return super().refuse(refusal)
        error: Any = _api_exception(cast(Hashable, type(refusal)))(refusal.message)
        error.wait = refusal.retry_after  # DRF's name for the seconds of Retry-After
        view, finalize = self.view, self.view.finalize_response

        def finalize_response(request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
            if not getattr(response, "exception", False) or response.status_code != error.status_code:
                return finalize(request, response, *args, **kwargs)  # the answer to another error
            # The database may be away, which the page asks for the choices of its forms.
            renderer: Any = request.accepted_renderer
            is_shown = hasattr(renderer, "refusal") and refusal.status < 500
            if is_shown:
                renderer.refusal = refusal
            if view.get_exception_handler() is exception_handler and response.data == {"detail": error.detail}:
                response.data = refusal.problem(self.policy.docs_url)
                if not is_shown:
                    request.accepted_renderer = ProblemRenderer()
                    request.accepted_media_type = ProblemRenderer.media_type
            for name, value in self.refusal_headers(refusal).items():
                response.headers.setdefault(name, value)
            return finalize(request, response, *args, **kwargs)

        view.finalize_response = finalize_response  # type: ignore[method-assign]
        raise error from refusal
