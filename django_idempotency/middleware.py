"""
`IdempotencyMiddleware` protects every unsafe endpoint of a project, without a line in its views:

    MIDDLEWARE = [
        ...,
        "django_idempotency.middleware.IdempotencyMiddleware",  # last
    ]

Protection comes after everything that decides who may call the view: DRF's authentication, permissions and throttles,
`login_required` and similar decorators. A view for which this is not certain is left out; a check and the log name it.
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from django_idempotency.operations.counts import count
from django_idempotency.protection.by_default import take_over
from django_idempotency.protection.middleware_place import check_inner, check_middleware

__all__ = ["IdempotencyMiddleware"]


class IdempotencyMiddleware:
    """
    Protects views by the options in the setting `IDEMPOTENCY`. There, `PROTECT` and `EXEMPT` take route patterns, and
    `UNPROTECTED` says what happens to a key that a view would ignore.

    Put it last in `MIDDLEWARE`. When the server starts, it raises `PolicyError` if it is there twice, or before a
    middleware with a `process_view`.
    """

    sync_capable = True
    async_capable = True
    protects_by_default = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        check_middleware(settings.MIDDLEWARE)
        check_inner(get_response)
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
        if run is None:
            return None
        return async_to_sync(run)() if iscoroutinefunction(run) else run()

    async def _process_view_async(
        self, request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        run = take_over(request, view, args, kwargs, count)
        if run is None:
            return None
        # On the thread on which Django runs sync views, because database connections belong to a thread.
        return await (run if iscoroutinefunction(run) else sync_to_async(run, thread_sensitive=True))()
