"""
`IdempotencyMiddleware` protects every unsafe endpoint of a project, without a line in its views:

    MIDDLEWARE = [
        ...,
        "django_idempotency.middleware.IdempotencyMiddleware",  # last
    ]

Each view is protected behind all that decides who may call it: DRF's authentication, permissions and throttles,
`login_required` and its kin. A view of which that cannot be known is left out, and named by a check and in the log.
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from django_idempotency.operations.counts import count
from django_idempotency.protection.by_default import check_middleware, take_over

__all__ = ["IdempotencyMiddleware"]


class IdempotencyMiddleware:
    """
    Protects by the options of the setting `IDEMPOTENCY`, of which `PROTECT` and `EXEMPT` take patterns of routes and
    `UNPROTECTED` says what becomes of a key that a view would ignore.

    It stands last in `MIDDLEWARE`. Raises `PolicyError`, when the server starts, if it is there twice, or before a
    middleware with a `process_view`.
    """

    sync_capable = True
    async_capable = True
    protects_by_default = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        check_middleware(settings.MIDDLEWARE)
        self.get_response = get_response
        self.process_view: Callable[..., Any] = self._process_view
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            self.process_view = self._process_view_async

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request)

    def _process_view(
        self, request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        run = take_over(request, view, args, kwargs, count)
        return None if run is None else run()

    async def _process_view_async(
        self, request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        run = take_over(request, view, args, kwargs, count)
        # On the thread on which Django runs plain views, with its connections.
        return None if run is None else await sync_to_async(run, thread_sensitive=True)()
