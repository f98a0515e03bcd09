"""
The middleware's work: decides which views to protect, and runs them.

It runs a protected view in `process_view`, which Django calls last before the view, and in its place: in the same
transaction, and with exceptions passed to Django as if the view had raised them.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NoReturn, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.base import BaseHandler
from django.core.signals import setting_changed
from django.db import Error, connections
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from django_idempotency import conf
from django_idempotency.adapters.body import has_form
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.keys import KEY_FIELD
from django_idempotency.core.observation import OBSERVE
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.seen import SeenNames
from django_idempotency.engine.announcements import usual_database
from django_idempotency.exceptions import KeyIgnored, StoreUnavailable
from django_idempotency.protection.exemptions import matches, names, sensitive
from django_idempotency.protection.introspection import SAFE, is_async, may_call
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

REMEDY = (
    "Decorate its handler with @idempotent, inside all that decides who may call the view; or mark the view with"
    " @idempotency_exempt, or name its route in EXEMPT."
)
_said = SeenNames()

# --- what is protected ---


placement = lru_cache(maxsize=conf.CACHED)(placement_of)


@lru_cache(maxsize=4 * conf.CACHED)
def decide(callback: Any, route: str, url_name: str, method: str) -> tuple[Placement, Place | None]:
    """
    Decide what happens to requests with *method* for *callback* on *route*. Cached. The place is None if the view has
    no handler for the method.

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
    Like `decide`, but also for a *callback* that is not hashable, which is left out. So is a view whose URL pattern has
    a callable among its *arguments*.
    """
    try:
        hash(callback)
    except TypeError:
        found = placement_of(callback)
        place = found.of(method)
        return found, place and replace(place, is_unplaced=place.how == NONE and not place.exempt)
    if method not in placement(callback).places:
        method = ""  # a client may send any: one that the view does not tell apart is kept once
    found, place = decide(callback, route, url_name, method)
    if place is not None and place.how == MIDDLEWARE and any(callable(each) or may_call(each) for each in arguments):
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
    Return a function that runs the view in Django's place or refuses the request, or None to let Django run *callback*.

    *count* is called with the database, the operation and the decision.
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
            return partial(_runner(callback), request, found, found.view, args, kwargs, policy)
    elif place.how == NONE:
        if place.is_unplaced:
            _warn(found, f"is not protected: {place.why}. {REMEDY}")
        if conf.unprotected() != "ignore":
            policy = conf.resolved(*place.policies)
            if request.method in policy.methods and (policy.meta_name in request.META or _has_field(request, policy)):
                return partial(ignored, request, f"{request.method} {match.route}", found, place.why, policy, count)
    elif _begins_transaction(callback):
        policy = conf.resolved()
        if _carries_key(request, policy) and conf.resolved(*place.policies).mode != OBSERVE:
            return partial(_runner(callback), request, found, callback, args, kwargs, policy)
    return None


def _runner(callback: Any) -> Any:
    """`run` or `run_async`. Raises `ImproperlyConfigured` for an async view that Django would refuse to call."""
    if not is_async(callback):
        return run
    if aliases := atomic_databases(getattr(callback, "_non_atomic_requests", ())):
        name = getattr(callback, "__qualname__", type(callback).__qualname__)
        raise ImproperlyConfigured(atomic_requests_error(name, aliases))
    return run_async


def ignored(
    request: Any,
    operation: str,
    found: Placement,
    why: str,
    policy: ResolvedPolicy,
    count: Callable[[str, str, str], None],
) -> HttpResponseBase | None:
    """Apply `UNPROTECTED` to a key that the view would ignore: return a refusal, or log a warning and return None."""
    count(usual_database(), operation, KeyIgnored.code)
    if conf.unprotected() == "refuse" and policy.mode != OBSERVE:
        return PlainAdapter(request, policy).refuse(KeyIgnored())
    _warn(found, f"ignores the idempotency key that is sent to {operation!r}: {why}.")
    return None


def _carries_key(request: HttpRequest, policy: ResolvedPolicy) -> bool:
    return (
        policy.meta_name in request.META
        or policy.required
        or policy.key is not None
        or (policy.form_key and has_form(request))
    )


def _has_field(request: HttpRequest, policy: ResolvedPolicy) -> bool:
    """Whether a form that Django has parsed already, to find its CSRF token, has a key."""
    return policy.form_key and KEY_FIELD in getattr(request, "_post", ())


def _begins_transaction(callback: Any) -> bool:
    excepted = getattr(callback, "_non_atomic_requests", ())
    return any(options["ATOMIC_REQUESTS"] and alias not in excepted for alias, options in connections.settings.items())


def atomic_databases(excepted: Collection[str]) -> list[str]:
    """The databases in whose transactions Django would call a view, by ATOMIC_REQUESTS."""
    return [
        alias for alias, options in connections.settings.items() if options["ATOMIC_REQUESTS"] and alias not in excepted
    ]


def atomic_requests_error(name: str, aliases: list[str]) -> str:
    return (
        f"{name} is async, and Django calls no async view in the transaction of ATOMIC_REQUESTS, which"
        f" {' and '.join(map(repr, aliases))} asks for. Its protection brings a transaction of its own: decorate the"
        " view with @transaction.non_atomic_requests."
    )


def run(
    request: Any, found: Placement, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any], policy: ResolvedPolicy
) -> HttpResponseBase:
    """Run *view* in the transaction of `ATOMIC_REQUESTS`. An exception is returned as a response that raises it."""
    del request.idempotency  # the protected handler sets it; still absent, the handler was not reached
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
        if has_begun or policy.mode == OBSERVE or not _is_unavailable(policy, error):
            return _Raised(error)
        logger.error("The transaction of a request for %s could not begin: %s", found.name, error)
        return PlainAdapter(request, policy).refuse(StoreUnavailable())
    except Exception as error:  # the view's own, which Django is to handle
        return _Raised(error)
    return _finished(request, found, policy, response)


async def run_async(
    request: Any, found: Placement, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any], policy: ResolvedPolicy
) -> HttpResponseBase:
    """Like `run`, for an async *view*, which Django calls in no transaction."""
    del request.idempotency
    try:
        response = await view(request, *args, **kwargs)
    except Exception as error:  # the view's own, which Django is to handle
        return _Raised(error)
    return _finished(request, found, policy, response)


def _finished(request: Any, found: Placement, policy: ResolvedPolicy, response: Any) -> HttpResponseBase:
    """The *response* of a view for Django. Warns if the view has answered before its handler."""
    if response is None:
        return _Raised(ValueError(f"The view {found.name} didn't return an HttpResponse object. It returned None."))
    if not hasattr(request, "idempotency"):
        request.idempotency = None
        if 200 <= response.status_code < 300 and request.method in policy.methods:
            _warn(found, "answered before its handler was reached, so nothing was protected.")
    return cast(HttpResponseBase, response)


def _is_unavailable(policy: ResolvedPolicy, error: Error) -> bool:
    """Whether *error*, raised by Django's BEGIN for ATOMIC_REQUESTS, means that the database does not answer."""
    store = stores[policy.store]
    aliases = [alias for alias, options in connections.settings.items() if options["ATOMIC_REQUESTS"]]
    return isinstance(store, TransactionalStore) and any(
        store.classify(alias, error) is Fault.UNAVAILABLE for alias in aliases
    )


class _Raised(HttpResponse):
    """
    Raises a view's exception when Django renders it. Django then calls each `process_exception`, as it does for an
    exception of a view but not for one of `process_view`.
    """

    context_data = None
    template_name = None

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def render(self) -> NoReturn:
        raise self.error


def _warn(found: Placement, text: str) -> None:
    """Log *text* about a view, once per process."""
    if _said.is_new(f"{found.full_name} {text}"):
        logger.warning("%s %s", found.full_name, text)
