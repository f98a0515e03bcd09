"""The checks of the middleware: its place, the patterns of `PROTECT` and `EXEMPT`, and the views that it leaves out."""

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from django_idempotency import conf
from django_idempotency.checks.settings import needs_setting
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.by_default import OURS, REMEDY, check_middleware, is_installed
from django_idempotency.protection.exemptions import matches
from django_idempotency.protection.routes import every_view, unplaced


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
    """E016, of the routes of ROOT_URLCONF."""
    patterns = [("PROTECT", each) for each in conf.protected_routes() or ()]
    patterns += [("EXEMPT", each) for each in conf.exempt_routes()]
    if not patterns:
        return []
    routes = {view.route for view in every_view()}
    return [
        Error(
            f"{conf.SETTING}[{name!r}] has the pattern {pattern!r}, which matches no route of the URLconf.",
            hint="Write it as the URLconf spells the route, without the host; `*` stands for any characters.",
            id="django_idempotency.E016",
        )
        for name, pattern in patterns
        if routes and not any(matches(pattern, route) for route in routes)
    ]


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
