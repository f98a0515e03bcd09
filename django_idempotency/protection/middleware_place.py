"""Where our middleware stands in the setting `MIDDLEWARE`: once, behind all that may refuse a request."""

from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.utils.module_loading import import_string

from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.introspection import enclosed

MARK = "protects_by_default"  # an attribute of the middleware's class: this room does not import it
OURS = "django_idempotency.middleware.IdempotencyMiddleware"


def is_installed() -> bool:
    """Whether our middleware is in the setting `MIDDLEWARE`."""
    return any(hasattr(middleware, MARK) for middleware in middleware_of(settings.MIDDLEWARE or ()))


def check_middleware(paths: Iterable[str]) -> None:
    """Raise a `PolicyError` if our middleware is twice in *paths*, or before one that Django would call after it."""
    seen = ""
    for path in paths:
        for middleware in middleware_of([path]):
            if hasattr(middleware, MARK):
                if seen:
                    raise PolicyError(f"MIDDLEWARE has {seen} and {path}: leave one of them out.")
                seen = path
            elif seen and hasattr(middleware, "process_view"):
                raise PolicyError(
                    f"MIDDLEWARE has {path} after {seen}. Django would not call its process_view, which may refuse"
                    f" the request, before a replay. Put ours last:\n\n    MIDDLEWARE = [\n        ...,\n"
                    f'        "{path}",\n        "{seen}",\n    ]'
                )


def check_inner(get_response: Any) -> None:
    """
    Raise a `PolicyError` if a middleware that Django calls after ours, by way of *get_response*, has a `process_view`:
    on the object too, which its class need not show.
    """
    for handler in _handlers_in(get_response):
        for process_view in getattr(handler, "_view_middleware", None) or ():  # those of the inner ones, so far
            name = getattr(process_view, "__qualname__", process_view)
            raise PolicyError(
                f"MIDDLEWARE has a middleware with a process_view ({name})"
                f" after {OURS}. Django would not call it, and it may refuse the request, before a replay. Put ours"
                " last."
            )


def _handlers_in(get_response: Any) -> Iterator[BaseHandler]:
    """Django's handler, found in what the middleware between hold: their attributes and closures."""
    waiting, seen = [get_response], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type) or not callable(each):
            continue
        seen.add(id(each))
        owner = getattr(each, "__self__", None)
        if isinstance(owner, BaseHandler):
            yield owner
        elif isinstance(each, FunctionType):
            waiting += [enclosed(each, name) for name in each.__code__.co_freevars]
        else:
            waiting += [owner, *getattr(each, "__dict__", {}).values()]


def middleware_of(paths: Iterable[str]) -> Iterable[Any]:
    """What *paths*, as in MIDDLEWARE, name."""
    for path in paths:
        try:
            yield import_string(path)
        except ImportError:
            pass  # Django reports it when it loads the middleware
