"""The checks of what is around the app: the admin, its permissions, the headers that django-cors-headers allows."""

from collections.abc import Collection, Iterable, Iterator

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Info, Tags, Warning, register
from django.db import Error, connections, router

from django_idempotency import conf
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.exceptions import PolicyError
from django_idempotency.models import IdempotencyRecord
from django_idempotency.protection.routes import views

CORS_APP = "corsheaders"
CORS_MIDDLEWARE = "corsheaders.middleware.CorsMiddleware"


@register(Tags.admin, deploy=True)
def check_admin(**kwargs: object) -> list[CheckMessage]:
    """I001. With --deploy only: a project may well do without, and needs no word about it at every command."""
    if apps.is_installed("django.contrib.admin"):
        return []
    return [
        Info(
            "django.contrib.admin is not installed: there is no page to look records up, free keys and settle unknown"
            " outcomes.",
            hint="Add 'django.contrib.admin' and what it needs to INSTALLED_APPS, or use `manage.py idempotency_show`.",
            id="django_idempotency.I001",
        )
    ]


@register(Tags.database)
def check_permissions(databases: Iterable[str] | None = None, **kwargs: object) -> list[CheckMessage]:
    """W008, asked of that one of *databases* which permissions are read from."""
    if not (apps.is_installed("django.contrib.auth") and apps.is_installed("django.contrib.contenttypes")):
        return []
    from django.contrib.auth.models import Permission

    using = router.db_for_read(Permission)
    if using not in (databases or ()):
        return []
    connection = connections[using]
    try:
        with connection.cursor() as cursor:
            tables = connection.introspection.table_names(cursor)
        if not {Permission._meta.db_table, IdempotencyRecord._meta.db_table} <= {*tables}:
            return []  # nothing is migrated there yet, or records are elsewhere
        there = set(
            Permission.objects.using(using)
            .filter(content_type__app_label=IdempotencyRecord._meta.app_label)
            .values_list("codename", flat=True)
        )
    except Error:
        return []  # W007, and Django's own
    missing = [name for name in _permissions() if name not in there]
    if not missing:
        return []
    return [
        Warning(
            f"Database {using!r} lacks the permission{'s' if len(missing) > 1 else ''} {_listed(missing)} of the app"
            f" {IdempotencyRecord._meta.app_label}: nobody but a superuser can be given the rights to its admin pages.",
            hint=f"Run `manage.py migrate --database {using}`, which creates permissions at its end.",
            id="django_idempotency.W008",
        )
    ]


def _permissions() -> Iterator[str]:
    for model in apps.get_app_config(IdempotencyRecord._meta.app_label).get_models():
        yield from (f"{action}_{model._meta.model_name}" for action in model._meta.default_permissions)
        yield from (name for name, _ in model._meta.permissions)


@register(Tags.security)
def check_cors(**kwargs: object) -> list[CheckMessage]:
    """W009, W010: what a browser's script may send and see, where a view is protected."""
    if not (apps.is_installed(CORS_APP) or CORS_MIDDLEWARE in settings.MIDDLEWARE):
        return []
    try:
        from corsheaders.conf import conf as cors
    except ImportError:
        return []  # Django's own error at the first request
    policies = list(_protecting())
    # A browser takes "*" literally where credentials travel.
    wildcard = not cors.CORS_ALLOW_CREDENTIALS
    sent = [policy.header for policy in policies if policy.key is None]
    shown = [policy.replayed_header for policy in policies]
    messages: list[CheckMessage] = []
    if blocked := _without(sent, cors.CORS_ALLOW_HEADERS, wildcard):
        messages.append(
            Warning(
                f"django-cors-headers does not allow the header {_listed(blocked)}, in which protected views take the"
                " idempotency key: a browser refuses to send such a request from another origin.",
                hint="Import default_headers from corsheaders.defaults, and set"
                f" CORS_ALLOW_HEADERS = (*default_headers, {_spelt(blocked)}).",
                id="django_idempotency.W009",
            )
        )
    if hidden := _without(shown, cors.CORS_EXPOSE_HEADERS, wildcard):
        messages.append(
            Warning(
                f"django-cors-headers does not expose the header {_listed(hidden)}, which tells a replay: a script from"
                " another origin cannot read it.",
                hint=f"Add {_spelt(hidden)} to CORS_EXPOSE_HEADERS. Silence this check where no script needs it.",
                id="django_idempotency.W010",
            )
        )
    return messages


def _protecting() -> Iterator[ResolvedPolicy]:
    """The policies by which views of the URLconf are protected."""
    for view in views():
        for handler in view.handlers:
            try:
                yield conf.resolved(*handler.policies)
            except PolicyError:
                pass  # E001, E003


def _without(wanted: Iterable[str], allowed: Collection[str], wildcard: bool) -> list[str]:
    """Those of *wanted* that *allowed* does not name. Header names have no case."""
    known = {header.lower() for header in allowed}
    if wildcard and "*" in known:
        return []
    return sorted({header for header in wanted if header.lower() not in known})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _spelt(headers: Iterable[str]) -> str:
    return ", ".join(f'"{header.lower()}"' for header in headers)
