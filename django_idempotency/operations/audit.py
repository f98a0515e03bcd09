"""Lists the unsafe endpoints of a URLconf, how each is protected or why not, and compares them with a baseline."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django_idempotency import conf
from django_idempotency.core.policy import DEFAULTS, Policy
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.by_default import place_for
from django_idempotency.protection.introspection import enclosed, module_of
from django_idempotency.protection.middleware_place import is_installed
from django_idempotency.protection.placement import DECORATOR, MIDDLEWARE, MIXIN, NONE, Place, Placement
from django_idempotency.protection.routes import UNSAFE, entries

EXEMPT, IDEMPOTENT = "exempt", "idempotent"  # in addition to the constants of `placement`
ANY = "any"  # the method of a function that serves all methods alike
HTTP_DECORATORS = "django.views.decorators.http"
FORMAT = "django_idempotency audit baseline, version 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One unsafe HTTP method of one route."""

    route: str
    method: str  # HTTP's, or ANY
    view: str  # with its module
    protection: str  # "decorator", "mixin", "middleware", "exempt", "idempotent" by definition, or "none"
    why: str  # the reason, if it is not protected
    options: dict[str, str]  # those that differ from the defaults, as Python writes them
    guards: tuple[str, ...]  # what decides who may call it, before the handler

    @property
    def identity(self) -> str:
        """Its name in a baseline."""
        return f"{self.method} {self.route}"


class BaselineError(ValueError):
    """A file is not a baseline. The message says why."""


def endpoints(urlconf: Any = None) -> Iterator[Endpoint]:
    """
    Yield every unsafe endpoint of *urlconf*, a dotted path, by default ROOT_URLCONF, in its order. Errors of importing
    the project's modules propagate.
    """
    by_default = is_installed()
    for pattern, route in entries(urlconf):
        callback, url_name = pattern.callback, str(pattern.name or "")
        shown: set[str] = set()
        for method in UNSAFE:
            try:
                found, place = place_for(callback, route, url_name, method, pattern.default_args.values())
                if place is None:
                    continue
                name = _method(found, method)
                if name is None or name in shown:
                    continue
                shown.add(name)
                yield _endpoint(found, place, route, name, method, by_default=by_default)
            except PolicyError as error:
                raise PolicyError(f"{route!r}: {error}") from error


def _method(found: Placement, method: str) -> str | None:
    """The name under which *method* is shown; None if the view refuses it."""
    if found.every is None:
        return method
    for layer in found.layers:
        if module_of(layer) == HTTP_DECORATORS and (allowed := enclosed(layer, "request_method_list")) is not None:
            return method if method in allowed else None
    names = getattr(found.view_class, "http_method_names", None)
    if names is None:
        return ANY
    return method if method.lower() in names and hasattr(found.view_class, method.lower()) else None


def _endpoint(found: Placement, place: Place, route: str, name: str, method: str, *, by_default: bool) -> Endpoint:
    policy = conf.resolved(*place.policies)
    protection, why = place.how, place.why
    if place.how == NONE:
        protection = EXEMPT if place.exempt else NONE
    elif place.how == MIDDLEWARE and not by_default:
        protection, why = NONE, "nothing protects it: it is not decorated, and the middleware is not in MIDDLEWARE"
    if method not in policy.methods and not place.exempt:
        if method in ("PUT", "DELETE"):
            protection, why = IDEMPOTENT, f"{method} is idempotent by definition"
        elif place.how in (DECORATOR, MIXIN, MIDDLEWARE):
            protection, why = NONE, "its option `methods` does not name it"
    return Endpoint(
        route=route,
        method=name,
        view=found.full_name,
        protection=protection,
        why=why,
        options=_options(place.policies),
        guards=place.guards,
    )


def _options(policies: Iterable[Policy]) -> dict[str, str]:
    merged = dict(conf.project_options())
    for policy in policies:
        merged.update(policy.options)
    return {name: _written(value) for name, value in merged.items() if value != DEFAULTS[name]}


def _written(value: Any) -> str:
    if isinstance(value, frozenset):
        return repr(tuple(sorted(value)))
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def unprotected(found: Iterable[Endpoint]) -> list[Endpoint]:
    """The endpoints in *found* that are neither protected nor left out on purpose."""
    return [each for each in found if each.protection == NONE]


def summary(found: Sequence[Endpoint]) -> dict[str, int]:
    """Count the endpoints in *found*: all, protected, left out on purpose, idempotent by definition, unprotected."""
    protected = sum(each.protection in (DECORATOR, MIXIN, MIDDLEWARE) for each in found)
    return {
        "endpoints": len(found),
        "protected": protected,
        "exempt": sum(each.protection == EXEMPT for each in found),
        "idempotent": sum(each.protection == IDEMPOTENT for each in found),
        "unprotected": len(unprotected(found)),
    }


def as_json(found: Sequence[Endpoint]) -> str:
    """*found* as JSON, for programs."""
    return json.dumps({"summary": summary(found), "endpoints": [asdict(each) for each in found]}, indent=2)


# --- the baseline ---


def write_baseline(found: Iterable[Endpoint]) -> str:
    """Return a baseline that accepts the unprotected endpoints in *found*: one line each, so that a diff shows it."""
    accepted = sorted({each.identity for each in unprotected(found)})
    return json.dumps({"format": FORMAT, "unprotected": accepted}, indent=2) + "\n"


def read_baseline(text: str) -> frozenset[str]:
    """Return what the baseline in *text* accepts. Raises `BaselineError` if *text* is not a baseline."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BaselineError(f"it is not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BaselineError("it was not written by this command")
    accepted = value.get("unprotected")
    if not isinstance(accepted, list) or not all(isinstance(each, str) for each in accepted):
        raise BaselineError('its "unprotected" is no list of texts')
    return frozenset(accepted)
