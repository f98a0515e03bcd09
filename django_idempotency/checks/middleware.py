"""The checks of the middleware: its place, the patterns of `PROTECT` and `EXEMPT`, and the views that it leaves out."""

from collections.abc import Iterator

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from django_idempotency import conf
from django_idempotency.checks.settings import needs_setting
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.by_default import REMEDY
from django_idempotency.protection.exemptions import matches
from django_idempotency.protection.middleware_place import OURS, check_middleware, is_installed
from django_idempotency.protection.routes import routes_by_language, unplaced


@register
def check_place(**kwargs: object) -> list[CheckMessage]:
    """E015. A server does not start with it: the middleware raises the same error."""
    try:
        check_middleware(settings.MIDDLEWARE or ())
    except PolicyError as error:
        return [
            Error(
                str(error),
                hint=f'Have "{OURS}" once in MIDDLEWARE, as its last entry.',
                id="django_idempotency.E015",
            )
        ]
    return []


@register(Tags.urls)
@needs_setting
def check_patterns(**kwargs: object) -> list[CheckMessage]:
    """E016 and W022, of the routes of ROOT_URLCONF in each language of the project."""
    by_setting = {"PROTECT": conf.protected_routes() or (), "EXEMPT": conf.exempt_routes()}
    if not any(by_setting.values()):
        return []
    routes = routes_by_language()
    return [
        message
        for name, patterns in by_setting.items()
        for check in (_unmatched, _matched_in_some_languages)
        for message in check(name, patterns, routes)
    ]


def _unmatched(name: str, patterns: tuple[str, ...], routes: list[dict[str, str]]) -> Iterator[CheckMessage]:
    known = {route for by_language in routes for route in by_language.values()}
    for pattern in patterns:
        if known and not any(matches(pattern, route) for route in known):
            yield Error(
                f"{conf.SETTING}[{name!r}] has the pattern {pattern!r}, which matches no route of the URLconf.",
                hint="Write it as the URLconf spells the route, without the host; `*` stands for any characters.",
                id="django_idempotency.E016",
            )


def _matched_in_some_languages(
    name: str, patterns: tuple[str, ...], routes: list[dict[str, str]]
) -> Iterator[CheckMessage]:
    for by_language in routes:
        named = {route: any(matches(pattern, route) for pattern in patterns) for route in by_language.values()}
        if len({*named.values()}) > 1:
            inside = next(route for route, is_named in named.items() if is_named)
            outside = [language for language, route in by_language.items() if not named[route]]
            yield Warning(
                f"{conf.SETTING}[{name!r}] names the route {inside!r}, but not in all languages:"
                f" {by_language[outside[0]]!r} is not named ({', '.join(outside)}).",
                hint=f"Add a pattern for each language to {name}, or begin one with `*`.",
                id="django_idempotency.W022",
            )


@register(Tags.urls)
@needs_setting
def check_unplaced(**kwargs: object) -> list[CheckMessage]:
    """W018: every view that the middleware would protect if it knew where."""
    if not is_installed():
        return []
    wanted = conf.resolved().methods
    messages: dict[tuple[str, str], CheckMessage] = {}
    for view, methods, why in unplaced():
        left_out = [method for method in methods if method in wanted]
        if not left_out or "W018" in view.silenced:
            continue
        messages.setdefault(
            (view.name, why),
            Warning(
                f"{view}: the middleware does not protect {', '.join(left_out)}: {why}.",
                hint=REMEDY,
                id="django_idempotency.W018",
            ),
        )
    return list(messages.values())
