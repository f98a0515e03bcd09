"""
The checks of the project around the app: the admin, its permissions, the headers of django-cors-headers, the documents
of drf-spectacular, the files of Prometheus.
"""

import os
import sys
from collections.abc import Collection, Iterable

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Info, Tags, Warning, register
from django.db import Error, connections, router
from django.db.models import Model

from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.inventory import policies_of_views
from django_idempotency.protection.routes import every_view

CORS_APP = "corsheaders"
PROMETHEUS = "django_idempotency.contrib.prometheus"
CORS_MIDDLEWARE = "corsheaders.middleware.CorsMiddleware"
DOCUMENT_HOOK = "django_idempotency.contrib.spectacular.document"


@register(Tags.admin, deploy=True)
def check_admin(**kwargs: object) -> list[CheckMessage]:
    """I001, only with --deploy: a project may leave the admin out on purpose."""
    if apps.is_installed("django.contrib.admin"):
        return []
    return [
        Info(
            "django.contrib.admin is not installed: there are no pages to find records, free keys and settle unsettled"
            " outcomes.",
            hint="Add 'django.contrib.admin' and what it needs to INSTALLED_APPS, or use `manage.py idempotency_show`.",
            id="django_idempotency.I001",
        )
    ]


@register(Tags.database)
def check_permissions(databases: Iterable[str] | None = None, **kwargs: object) -> list[CheckMessage]:
    """W008, for the one of *databases* that permissions are read from."""
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
            return []  # not migrated yet, or the records are in another database
        there = set(
            Permission.objects.using(using)
            .filter(content_type__app_label=IdempotencyRecord._meta.app_label)
            .values_list("codename", flat=True)
        )
    except Error:
        return []  # W007 or a check of Django's own reports it
    own = apps.get_app_config(IdempotencyRecord._meta.app_label).get_models()
    missing = [name for model in own for name in _permissions(model) if name not in there]
    if not missing:
        return []
    return [
        Warning(
            f"Database {using!r} lacks the permission{'s' if len(missing) > 1 else ''} {', '.join(missing)} of the app"
            f" {IdempotencyRecord._meta.app_label}: only superusers can use its admin pages.",
            hint=f"Run `manage.py migrate --database {using}`, which also creates permissions.",
            id="django_idempotency.W008",
        )
    ]


def _permissions(model: type[Model]) -> list[str]:
    meta = model._meta
    default = [f"{action}_{meta.model_name}" for action in meta.default_permissions]
    return [*default, *(name for name, _label in meta.permissions)]


@register(Tags.security)
def check_cors(**kwargs: object) -> list[CheckMessage]:
    """W009, W010: the headers of protected views that a browser's script may send and read."""
    if not (apps.is_installed(CORS_APP) or CORS_MIDDLEWARE in settings.MIDDLEWARE):
        return []
    try:
        from corsheaders.conf import conf as cors
    except ImportError:
        return []  # an error of the project's settings at the first request
    policies = policies_of_views()
    # A browser takes "*" literally if credentials are sent.
    wildcard = not cors.CORS_ALLOW_CREDENTIALS
    sent = [policy.header for policy in policies if policy.key is None]
    shown = [policy.replayed_header for policy in policies]
    messages: list[CheckMessage] = []
    if blocked := _find_missing(sent, cors.CORS_ALLOW_HEADERS, wildcard):
        messages.append(
            Warning(
                f"django-cors-headers does not allow the header {', '.join(blocked)}, which carries the idempotency key"
                " of protected views: a browser refuses to send it to another origin.",
                hint="Import default_headers from corsheaders.defaults, and set"
                f" CORS_ALLOW_HEADERS = (*default_headers, {_quote(blocked)}).",
                id="django_idempotency.W009",
            )
        )
    if hidden := _find_missing(shown, cors.CORS_EXPOSE_HEADERS, wildcard):
        messages.append(
            Warning(
                f"django-cors-headers does not expose the header {', '.join(hidden)}, which marks a replay: a script"
                " from another origin cannot read it.",
                hint=f"Add {_quote(hidden)} to CORS_EXPOSE_HEADERS. Silence this check if no script needs it.",
                id="django_idempotency.W010",
            )
        )
    return messages


@register(Tags.files)
def check_metrics_directory(**kwargs: object) -> list[CheckMessage]:
    """W024. The library makes no folder, and each decision's figure would be lost with an error in the log."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder or not apps.is_installed(PROMETHEUS) or (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return []
    return [
        Warning(
            f"PROMETHEUS_MULTIPROC_DIR names {folder!r}, which is no folder that this process can write to: nothing is"
            " counted for Prometheus.",
            hint="Make the folder before the server starts, and empty it at each start.",
            id="django_idempotency.W024",
        )
    ]


def _find_missing(wanted: Iterable[str], allowed: Collection[str], wildcard: bool) -> list[str]:
    """Those of *wanted* that *allowed* does not name. The case of header names does not matter."""
    known = {header.lower() for header in allowed}
    if wildcard and "*" in known:
        return []
    return sorted({header for header in wanted if header.lower() not in known})


def _quote(headers: Iterable[str]) -> str:
    return ", ".join(f'"{header.lower()}"' for header in headers)


@register(Tags.urls)
def check_documents(**kwargs: object) -> list[CheckMessage]:
    """W023, for each view that serves a document of drf-spectacular without our hook."""
    found = list(every_view())
    module = sys.modules.get("drf_spectacular.views")  # if it is not imported, no view of the URLconf is one of its own
    if module is None or not policies_of_views():
        return []
    try:
        usual = module.spectacular_settings.POSTPROCESSING_HOOKS
    except ImportError:
        return []  # drf-spectacular's own check reports it
    messages: list[CheckMessage] = []
    for view in found:
        if view.view_class is None or not issubclass(view.view_class, module.SpectacularAPIView):
            continue
        hooks = (view.attribute("custom_settings") or {}).get("POSTPROCESSING_HOOKS", usual)
        if not any(DOCUMENT_HOOK in (hook, _name(hook)) for hook in hooks):
            messages.append(
                Warning(
                    f"{view}: this OpenAPI document does not tell of idempotency keys.",
                    hint="Have 'drf_spectacular' in INSTALLED_APPS. If its `custom_settings` have POSTPROCESSING_HOOKS,"
                    f" add {DOCUMENT_HOOK!r} to them.",
                    id="django_idempotency.W023",
                )
            )
    return messages


def _name(hook: object) -> str:
    return f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', '')}"
