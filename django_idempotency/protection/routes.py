"""Which views of the project's URLconf are protected, and by which options."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import LocalePrefixPattern
from django.utils import translation
from django.utils.functional import Promise

from django_idempotency import conf
from django_idempotency.core.policy import POLICY, Policy, ResolvedPolicy
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.by_default import place_for
from django_idempotency.protection.introspection import (
    DESCRIBING,
    SAFE,
    actions_of,
    api_view_function,
    has_mixin,
    operations_of,
)
from django_idempotency.protection.middleware_place import is_installed
from django_idempotency.protection.placement import MIDDLEWARE, NONE, Place

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
SILENCED = "idempotency_silenced_checks"  # a view's attribute: ids of warnings, as in SILENCED_SYSTEM_CHECKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A protected function, a decorated method, or a method of a class that has the mixin."""

    name: str  # with its module; the class's name if the class has the mixin
    function: Any
    policies: tuple[Policy, ...]
    methods: frozenset[str]  # HTTP's; empty if they are not known
    decorated: bool  # by @idempotent itself


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One entry of the URLconf, with its protected handlers."""

    name: str  # with its module
    route: str
    url_name: str
    callback: Any  # in the URLconf
    view_class: type | None
    options: Mapping[str, Any]  # of as_view(), which override attributes of the class
    handlers: tuple[Handler, ...]
    arguments: tuple[Any, ...] = ()  # the extra arguments of the URL pattern
    non_atomic_requests: frozenset[str]  # databases for which ATOMIC_REQUESTS does not apply to it

    def __str__(self) -> str:
        return f"{self.name} (route {self.route!r})"

    @property
    def silenced(self) -> frozenset[str]:
        """The ids of the warnings, like "W003", that the view's class or function silences."""
        owners = (self.view_class, self.callback, *(handler.function for handler in self.handlers))
        return frozenset(str(id).rpartition(".")[2] for owner in owners for id in getattr(owner, SILENCED, ()))

    def attribute(self, name: str) -> Any:
        """Look up an attribute as an instance of the view's class has it."""
        return self.options.get(name, getattr(self.view_class, name, None))


def views() -> Iterator[View]:
    """Every view of the URLconf that is protected, or carries a `Policy`."""
    by_default = is_installed()
    for view in every_view():
        if by_default:
            view = replace(view, handlers=(*view.handlers, *_of_middleware(view)))
        if view.handlers or isinstance(view.attribute("idempotency"), Policy):
            yield view


def policy_at(request: HttpRequest, method: str) -> ResolvedPolicy | None:
    """The policy that protects *method* on the route of *request*; None if nothing does."""
    match = request.resolver_match
    if match is None:  # RequestFactory resolves nothing
        return None
    return policy_of(match.func, match.route, match.url_name or "", method, match.kwargs.values())


def policy_of(
    callback: Any, route: str, url_name: str, method: str, arguments: Iterable[Any] = ()
) -> ResolvedPolicy | None:
    """
    The policy that protects *method* of *callback*, the view of a URL pattern with these *arguments*; None if nothing
    does. Raises `PolicyError` for options of the view that cannot be used.
    """
    place = place_for(callback, route, url_name, method, arguments)[1]
    if place is None or place.how == NONE or (place.how == MIDDLEWARE and not is_installed()):
        return None
    policy = conf.resolved(*place.policies)
    return policy if method in policy.methods else None


def entries(urlconf: Any = None) -> Iterator[tuple[URLPattern, str]]:
    """
    Yield each pattern of *urlconf*, by default ROOT_URLCONF, with its whole route. Errors of importing the project's
    modules propagate.
    """
    yield from _entries(get_resolver(urlconf).url_patterns, "")


def routes_by_language() -> list[dict[str, str]]:
    """Each pattern's route by the languages of the project: they differ under `i18n_patterns` and `gettext_lazy`."""
    languages = [settings.LANGUAGE_CODE]
    by_language = {}
    try:
        if settings.USE_I18N and any(map(_is_translated, get_resolver().url_patterns)):  # to load many takes seconds
            languages = [code for code, _ in settings.LANGUAGES]
        for language in languages:
            with translation.override(language):
                by_language[language] = [route for _, route in entries()]
    except Exception:  # from the project's modules; Django's own URL check reports it
        return []
    return [dict(zip(languages, routes, strict=True)) for routes in zip(*by_language.values(), strict=True)]


def _is_translated(entry: Any) -> bool:
    """Whether the route of *entry*, or one inside it, depends on the language."""
    pattern = getattr(entry, "pattern", "")
    spelt = getattr(pattern, "_route", getattr(pattern, "_regex", ""))
    if isinstance(pattern, LocalePrefixPattern) or isinstance(spelt, Promise):
        return True
    return isinstance(entry, URLResolver) and any(map(_is_translated, entry.url_patterns))


def every_view() -> Iterator[View]:
    """Every view of the URLconf, with those of its handlers that are decorated or in a class with the mixin."""
    try:
        found = list(entries())
    except Exception:  # from the project's modules; Django's own URL check reports it
        return
    for pattern, route in found:
        view = view_of(pattern.callback, route, str(pattern.name or ""))
        yield replace(view, arguments=tuple(pattern.default_args.values())) if pattern.default_args else view


def unplaced() -> Iterator[tuple[View, list[str], str]]:
    """Yield each view that the middleware leaves out for want of a safe place, with the HTTP methods and the reason."""
    for view in every_view():
        reasons: dict[str, list[str]] = {}
        for method in UNSAFE:
            place = _place(view, method)
            if place is not None and place.is_unplaced:
                reasons.setdefault(place.why, []).append(method)
        yield from ((view, methods, why) for why, methods in reasons.items())


def _place(view: View, method: str) -> Place | None:
    try:
        return place_for(view.callback, view.route, view.url_name, method, view.arguments)[1]
    except PolicyError:  # E003
        return None


def _of_middleware(view: View) -> Iterator[Handler]:
    """Yield the handlers of *view* that the middleware protects, one for each function."""
    by_function: dict[Any, list[str]] = {}
    policies: dict[Any, tuple[Policy, ...]] = {}
    for method in UNSAFE:
        place = _place(view, method)
        if place is not None and place.how == MIDDLEWARE:
            by_function.setdefault(place.function, []).append(method)
            policies[place.function] = place.policies
    for function, methods in by_function.items():
        yield Handler(
            name=view.name,
            function=function,
            policies=policies[function],
            methods=frozenset(methods),
            decorated=False,
        )


def _entries(patterns: Iterable[Any], prefix: str) -> Iterator[tuple[URLPattern, str]]:
    for entry in patterns:
        route = prefix + str(getattr(entry, "pattern", ""))
        if isinstance(entry, URLResolver):
            yield from _entries(entry.url_patterns, route)
        elif isinstance(entry, URLPattern):
            yield entry, route


def view_of(callback: Any, route: str = "", url_name: str = "") -> View:
    """Describe *callback*, the view of a URL pattern, with its protected handlers."""
    in_urlconf = callback
    while isinstance(callback, partial):
        callback = callback.func
    view_class = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    if not isinstance(view_class, type):
        view_class = None
    options = getattr(callback, "initkwargs", None) or getattr(callback, "view_initkwargs", None) or {}
    name = _dotted(view_class or next(iter(operations_of(callback).values()), callback))
    if view_class is None:
        handlers = _of_function(callback, name)
    else:
        handlers = chain(_around(callback, view_class, name), _of_class(callback, view_class, options, name))
    return View(
        name=name,
        route=route,
        url_name=url_name,
        callback=in_urlconf,
        view_class=view_class,
        options=options,
        handlers=tuple(handlers),
        non_atomic_requests=frozenset(getattr(callback, "_non_atomic_requests", ())),
    )


def _dotted(view: Any) -> str:
    named = view if hasattr(view, "__name__") else type(view)
    return f"{named.__module__}.{named.__name__}"


def _of_function(view: Any, name: str) -> Iterator[Handler]:
    for method, function in operations_of(view).items():
        policy = getattr(function, POLICY, None)
        if isinstance(policy, Policy):
            yield Handler(
                name=_dotted(function),
                function=function,
                policies=(policy,),
                methods=frozenset({method}),
                decorated=True,
            )
    for function in (view, type(view).__call__):
        policy = getattr(function, POLICY, None)
        if isinstance(policy, Policy):
            yield Handler(name=name, function=function, policies=(policy,), methods=frozenset(), decorated=True)
            return


def _around(callback: Any, view_class: type, name: str) -> Iterator[Handler]:
    """Yield the handler of @idempotent around a plain as_view(), or around the dispatch, whose attributes it copies."""
    policy = getattr(callback, POLICY, None)
    if not isinstance(policy, Policy):
        return
    of_dispatch = hasattr(getattr(view_class, "dispatch", None), POLICY)
    own = getattr(view_class, "idempotency", None) if of_dispatch else None
    policies = (own, policy) if isinstance(own, Policy) else (policy,)
    names = getattr(view_class, "http_method_names", ())
    methods = frozenset(name.upper() for name in names if hasattr(view_class, name)) - DESCRIBING
    # The decorator, or the check of the dispatch, verifies its place.
    yield Handler(name=name, function=None, policies=policies, methods=methods, decorated=True)


def _of_class(callback: Any, view_class: type, options: Mapping[str, Any], name: str) -> Iterator[Handler]:
    own = options.get("idempotency", getattr(view_class, "idempotency", None))
    of_class = (own,) if isinstance(own, Policy) else ()
    by_handler: dict[str, set[str]] = {}
    for method, handler_name in actions_of(callback, view_class, getattr(view_class, "http_method_names", ())).items():
        by_handler.setdefault(handler_name, set()).add(method.upper())
    function = api_view_function(view_class)
    if function is not None:
        by_handler = {function.__name__: set(chain.from_iterable(by_handler.values()))}
    for handler_name, methods in by_handler.items():
        handler = getattr(view_class, handler_name, None) if function is None else function
        policy = getattr(handler, POLICY, None)
        if isinstance(policy, Policy):
            yield Handler(
                name=f"{name}.{handler_name}" if function is None else name,
                function=handler,
                policies=(*of_class, policy),
                methods=frozenset(methods - DESCRIBING),
                decorated=True,
            )
        elif has_mixin(view_class) and not methods <= SAFE:
            yield Handler(
                name=name, function=handler, policies=of_class, methods=frozenset(methods - SAFE), decorated=False
            )
