"""
What a handler was given, for handlers that run again after the database has cancelled them (option `retries`).

A handler changes more than rows: it reads the body, pops from `request.data`, puts messages and session values, and
changes the attributes of `request.user`. The database takes back the rows alone. The rest is kept here before the
first run, as copies where it can be changed in place, and each later run gets it as it was.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from django_idempotency.adapters.body import keep_place, uploaded
from django_idempotency.adapters.plain import PlainAdapter

logger = logging.getLogger("django_idempotency")

# The attributes that a handler changes in place: of Django's request, DRF's, the session and the storage of messages.
CHANGEABLE = frozenset(
    {"_auth", "_cached_user", "_data", "_full_data", "_queued_messages", "_session_cache", "_user", "user"}
)


class OriginalArguments:
    """The arguments of a *function* of `@once`. Its instance, if it is a method, is handed over as it is."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        self._given: Any = (args, kwargs)
        self._kept: Any = None
        self._cause: Exception | None = None  # why nothing could be kept

    def arguments(self) -> Any:
        """Positional and named arguments for the next run. The first call keeps them."""
        if self._kept is None and self._cause is None:
            try:
                self._keep()
            except Exception as error:  # of a class of the project
                self._cause = error
        return self._given

    def restore(self) -> bool:
        """Make all as it was before the first run. Returns False if that cannot be; the handler must not run again."""
        try:
            if self._cause is not None:
                raise self._cause
            self._put_back()
        except Exception as error:
            logger.warning("%s does not run again, because what it was given cannot be copied: %s", self._name(), error)
            return False
        return True

    def _keep(self) -> None:
        self._kept = self._copied(self._given)

    def _put_back(self) -> None:
        self._given = self._copied(self._kept)

    def _shared(self) -> list[Any]:
        """What is handed over as it is."""
        args = self._given[0]
        return [args[0]] if args and hasattr(type(args[0]), self._name()) else []

    def _copied(self, what: Any) -> Any:
        return deepcopy(what, {id(each): each for each in self._shared()})

    def _name(self) -> str:
        return getattr(self._function, "__name__", "The handler")


class OriginalRequest(OriginalArguments):
    """The request of *adapter*, and the arguments with which its *view* is called: its body is read from its start."""

    def __init__(
        self, adapter: PlainAdapter, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        super().__init__(view, args, kwargs)
        self._adapter = adapter

    def _keep(self) -> None:
        request: Any = self._adapter.django_request
        seen: Any = self._adapter.request
        bound = getattr(self._function, "func", self._function)  # `method_decorator` passes a partial of the method
        first = self._given[0][0] if self._given[0] else None
        self._objects = [
            *{request: None, seen: None},
            *(getattr(request, name) for name in ("session", "_messages") if hasattr(request, name)),
            *{each: None for each in (first, getattr(bound, "__self__", None)) if each not in (None, request, seen)},
        ]
        self._files = uploaded(request)
        self._go_back = keep_place(request)
        self._states = [dict(vars(each)) for each in self._objects]
        changeable = [{name: value for name, value in state.items() if name in CHANGEABLE} for state in self._states]
        self._kept = self._copied((changeable, self._given))

    def _put_back(self) -> None:
        self._go_back()
        for file in uploaded(self._adapter.django_request):
            if file not in self._files:  # the handler has parsed the form, and will again
                file.close()
        changeable, self._given = self._copied(self._kept)
        for each, state, changed in zip(self._objects, self._states, changeable, strict=True):
            vars(each).clear()
            vars(each).update(state | changed)

    def _shared(self) -> list[Any]:
        return [*self._objects, *self._files]
