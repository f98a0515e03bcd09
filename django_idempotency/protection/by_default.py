"""
The middleware's work: which views it protects, and the run of one.

It runs a protected view in `process_view`, the last thing that Django calls before the view, in the place of the view:
with the same transaction around it, and with an exception handed to Django as if the view had raised it.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NoReturn, cast

from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.core.signals import setting_changed
from django.db import Error, connections
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from django_idempotency import conf
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.engine.announcements import usual_database
from django_idempotency.exceptions import KeyIgnored, PolicyError, StoreUnavailable
from django_idempotency.protection.exemptions import matches, names, sensitive
from django_idempotency.protection.introspection import SAFE
from django_idempotency.protection.placement import (
    DECORATOR,
    MIDDLEWARE,
    MIXIN,
    NONE,
    Place,
    Placement,
    placement_of,
)
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault, TransactionalStore

logger = logging.getLogger("django_idempotency")

MARK = "protects_by_default"  # an attribute of the middleware's class: this room does not import it
OURS = "django_idempotency.middleware.IdempotencyMiddleware"
REMEDY = (
    "Decorate its handler with @idempotent, inside all that decides who may call the view; or mark the view with"
    " @idempotency_exempt, or name its route in EXEMPT."
)
REMEMBERED = 1000  # views that a process said something of
_said: set[tuple[str, str]] = set()

# --- what is protected ---


placement = lru_cache(maxsize=conf.CACHED)(placement_of)


@lru_cache(maxsize=4 * conf.CACHED)
def decide(callback: Any, route: str, url_name: str, method: str) -> tuple[Placement, Place | None]:
    """
    What becomes of requests of *method* for *callback* on *route*, made once and kept. No place: the view has no
    handler for the method.

    Raises `PolicyError` for options of the view that cannot be used.
    """
    found = placement(callback)
    place = found.of(method)
    if place is None or place.how in (DECORATOR, MIXIN):
        return found, place
    if place.exempt:
        return found, _left_out(place, "it is marked with @idempotency_exempt", exempt=True)
    if any(matches(pattern, route) for pattern in conf.exempt_routes()):
        return found, _left_out(place, "EXEMPT names its route", exempt=True)
    wanted = conf.protected_routes()
    if wanted is not None and not any(matches(pattern, route) for pattern in wanted):
        return found, _left_out(place, "PROTECT does not name its route")
    why = sensitive(found.name, url_name, found.view_class, found.layers)
    if why and not any(names(pattern, route) for pattern in wanted or ()):
        return found, _left_out(place, f"{why}, and PROTECT does not name its route", exempt=True)
    if place.how == NONE:
        return found, replace(place, is_unplaced=True)
    if place.decides and conf.resolved(*place.policies).replay_guard is None:
        why = (
            f"its handler itself decides who may call it ({place.decides}), which a replay would not ask, and it has no"
            " `replay_guard`"
        )
        return found, replace(_left_out(place, why), is_unplaced=True)
    return found, place


def place_for(
    callback: Any, route: str, url_name: str, method: str, arguments: Iterable[Any] = ()
) -> tuple[Placement, Place | None]:
    """
    What `decide` says, for a *callback* without a hash too: an object, so it is left out. So is a view that the URL
    pattern gives something to call among its *arguments*.
    """
    try:
        hash(callback)
    except TypeError:
        found = placement_of(callback)
        place = found.of(method)
        return found, place and replace(place, is_unplaced=place.how == NONE and not place.exempt)
    found, place = decide(callback, route, url_name, method)
    if place is not None and place.how == MIDDLEWARE and any(map(callable, arguments)):
        why = "its URL pattern gives it something to call, which may be a view"
        return found, replace(_left_out(place, why), is_unplaced=True)
    return found, place


def _left_out(place: Place, why: str, *, exempt: bool = False) -> Place:
    return replace(place, how=NONE, why=why, exempt=exempt)


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == conf.SETTING:
        decide.cache_clear()


# --- a request ---


def take_over(
    request: Any, callback: Any, args: tuple[Any, ...], kwargs: dict[str, Any], count: Callable[[str, str, str], None]
) -> Callable[[], HttpResponseBase | None] | None:
    """
    What runs the view in Django's place, or refuses the request; None if Django is to run *callback* as it is.

    *count* counts a decision: it is called with the database, the operation and the decision.
    """
    request.idempotency = None
    if request.method in SAFE:
        return None
    match = request.resolver_match
    found, place = place_for(callback, match.route, match.url_name or "", request.method, kwargs.values())
    if place is None:
        return None
    if place.how == MIDDLEWARE:
        policy = conf.resolved(*place.policies)
        if request.method in policy.methods and _carries_key(request, policy):
            return partial(run, request, found, found.view, args, kwargs, policy)
    elif place.how == NONE:
        if place.is_unplaced:
            _say(logging.WARNING, found, f"is not protected: {place.why}. {REMEDY}")
        if conf.unprotected() != "ignore":
            policy = conf.resolved(*place.policies)
            if request.method in policy.methods and policy.meta_name in request.META:
                return partial(ignored, request, f"{request.method} {match.route}", found, place.why, policy, count)
    elif _begins_transaction(callback):
        policy = conf.resolved()
        if _carries_key(request, policy):
            return partial(run, request, found, callback, args, kwargs, policy)
    return None


def ignored(
    request: Any,
    operation: str,
    found: Placement,
    why: str,
    policy: ResolvedPolicy,
    count: Callable[[str, str, str], None],
) -> HttpResponseBase | None:
    """What `UNPROTECTED` does with a key that the view would ignore: a refusal, or a warning and no answer."""
    count(usual_database(), operation, KeyIgnored.code)
    if conf.unprotected() == "refuse":
        return PlainAdapter(request, policy).refuse(KeyIgnored())
    _say(logging.WARNING, found, f"ignores the idempotency key that is sent to {operation!r}: {why}.")
    return None


def _carries_key(request: HttpRequest, policy: ResolvedPolicy) -> bool:
    return policy.meta_name in request.META or policy.required or policy.key is not None


def _begins_transaction(callback: Any) -> bool:
    excepted = getattr(callback, "_non_atomic_requests", ())
    return any(options["ATOMIC_REQUESTS"] and alias not in excepted for alias, options in connections.settings.items())


def run(
    request: Any, found: Placement, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any], policy: ResolvedPolicy
) -> HttpResponseBase:
    """The answer of *view*, in the transaction of `ATOMIC_REQUESTS`, or what lets Django handle its exception."""
    del request.idempotency  # whoever protects the view sets it
    has_begun = False

    def begun(*args: Any, **kwargs: Any) -> Any:
        nonlocal has_begun
        has_begun = True
        return view(*args, **kwargs)

    vars(begun)["_non_atomic_requests"] = getattr(view, "_non_atomic_requests", set())
    try:
        atomic = cast(Callable[..., HttpResponseBase | None], BaseHandler().make_view_atomic(begun))
        response = atomic(request, *args, **kwargs)
    except Error as error:
        if has_begun or not _is_unavailable(policy, error):
            return _Raised(error)
        logger.error("The transaction of a request for %s could not begin: %s", found.name, error)
        return PlainAdapter(request, policy).refuse(StoreUnavailable())
    except Exception as error:
        return _Raised(error)
    if response is None:
        return _Raised(ValueError(f"The view {found.name} didn't return an HttpResponse object. It returned None."))
    if not hasattr(request, "idempotency"):
        request.idempotency = None
        if 200 <= response.status_code < 300 and request.method in policy.methods:
            _say(logging.WARNING, found, "answered before its handler was reached, so nothing was protected.")
    return response


def _is_unavailable(policy: ResolvedPolicy, error: Error) -> bool:
    """Does *error*, of the BEGIN that Django sends for ATOMIC_REQUESTS, say that the database does not answer?"""
    store = stores[policy.store]
    aliases = [alias for alias, options in connections.settings.items() if options["ATOMIC_REQUESTS"]]
    return isinstance(store, TransactionalStore) and any(
        store.classify(alias, error) is Fault.UNAVAILABLE for alias in aliases
    )


class _Raised(HttpResponse):
    """
    Raises a view's exception when Django renders it: Django then asks each `process_exception`, as it does for an
    exception of a view, and not for one of `process_view`.
    """

    context_data = None
    template_name = None

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def render(self) -> NoReturn:
        raise self.error


def _say(level: int, found: Placement, text: str) -> None:
    """Log *text* about a view, once in a process."""
    if (found.name, text) in _said or len(_said) >= REMEMBERED:
        return
    _said.add((found.name, text))
    logger.log(level, "%s %s", found.full_name, text)


# --- MIDDLEWARE ---


def is_installed() -> bool:
    """Is our middleware in the setting `MIDDLEWARE`?"""
    return any(hasattr(middleware, MARK) for middleware in _middleware(settings.MIDDLEWARE or ()))


def check_middleware(paths: Iterable[str]) -> None:
    """Raise a `PolicyError` if our middleware is twice in *paths*, or before one that Django would call after it."""
    seen = ""
    for path in paths:
        for middleware in _middleware([path]):
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


def _middleware(paths: Iterable[str]) -> Iterable[Any]:
    for path in paths:
        try:
            yield import_string(path)
        except ImportError:
            pass  # Django's own error when it loads them
