"""
Sends a stored request to its view again: by the project's URLconf, as the user who sent it, without middleware.

The view's own guards (DRF's permissions, `login_required`) run as they do for every request.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, ValidationError
from django.core.signals import request_finished, request_started
from django.db import connections
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, get_resolver, get_script_prefix, set_script_prefix, set_urlconf
from django.utils import timezone, translation

from django_idempotency.adapters.sent import decode_request, request_again
from django_idempotency.core.progress import PHASED
from django_idempotency.protection.by_default import is_installed, take_over
from django_idempotency.protection.resumption import RESUMPTION, Resumption
from django_idempotency.protection.routes import policy_at
from django_idempotency.stores.schemas import in_schema, public_schema, tenant_database

UNREADABLE = "its stored request cannot be read"


def send_again(stored: bytes, resumption: Resumption) -> int:
    """
    Call the view of a *stored* request, for the run that *resumption* names. Returns the status of its answer.

    Raises `NotResumed` if that cannot be, and what the view raises.
    """
    try:
        sent = decode_request(stored)
        outline = request_again(sent | {"body": ""})
        context = sent["schema"], sent["language"], sent["time_zone"]
    except (AttributeError, LookupError, TypeError, ValueError):
        resumption.fail(UNREADABLE)
    request_started.send(sender=send_again, environ=outline.environ)  # ends connections that are too old
    response: HttpResponseBase | None = None
    try:
        with _as_it_was(outline, *context, resumption):
            response = _call_view(outline, sent, resumption)
            return response.status_code
    except PermissionDenied:
        return 403
    except Http404:
        return 404
    finally:
        if response is None:
            request_finished.send(sender=send_again)
        else:
            response.close()  # sends the signal, too


def _call_view(outline: HttpRequest, sent: dict[str, Any], resumption: Resumption) -> HttpResponseBase:
    """Call the view of *outline*, which is the request without its body."""
    try:
        match = get_resolver(getattr(outline, "urlconf", None)).resolve(outline.path_info)
    except Resolver404:
        resumption.fail(f"no view is at {outline.path_info} any more")
    outline.resolver_match = match
    policy = policy_at(outline, outline.method or "")
    if policy is None or policy.mode != PHASED:
        resumption.fail(f"the view at {outline.path_info} is not protected in phased mode any more")
    restore = getattr(policy.store_request, "restore", None)
    if restore is not None:
        sent = restore(sent)
    try:
        request = request_again(sent)
    except (AttributeError, LookupError, TypeError, ValueError):
        resumption.fail(UNREADABLE)
    vars(request).update({name: vars(outline)[name] for name in ("resolver_match", "tenant") if name in vars(outline)})
    _complete(request, sent, resumption)
    setattr(request, RESUMPTION, resumption)
    run = None
    if is_installed():  # in its `process_view`
        run = take_over(request, match.func, match.args, match.kwargs, lambda *decision: None)
    response = match.func(request, *match.args, **match.kwargs) if run is None else run()
    if not isinstance(response, HttpResponseBase):
        raise TypeError(f"The view at {request.path_info} returned a {type(response).__name__}.")
    render: Any = getattr(response, "render", None)
    return render() if callable(render) else response


def _complete(request: Any, sent: Mapping[str, Any], resumption: Resumption) -> None:
    """Give *request* what middleware would give it."""
    user = _load_user(sent, resumption)
    if user is not None:
        request.user = request._force_auth_user = user  # DRF takes the second one for authenticated
    elif apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.models import AnonymousUser

        request.user = AnonymousUser()
    request._dont_enforce_csrf_checks = True  # no browser sends it
    if apps.is_installed("django.contrib.sessions"):
        request.session = import_module(settings.SESSION_ENGINE).SessionStore()  # empty, and never saved
    if apps.is_installed("django.contrib.messages"):
        from django.contrib.messages.storage.cookie import CookieStorage

        request._messages = CookieStorage(request)  # what is added is stored with the answer
    if sent["language"] is not None:
        request.LANGUAGE_CODE = sent["language"]


def _load_user(sent: Mapping[str, Any], resumption: Resumption) -> Any:
    """The user who sent the request, as today's row says; None for an anonymous one."""
    pk, label = sent["user"], sent["user_model"]
    if pk is None:
        return None
    if label is None:
        resumption.fail("its user is no row of a model, so that it cannot be loaded again")
    try:
        user: Any = apps.get_model(label)._default_manager.get(pk=pk)
    except (LookupError, ObjectDoesNotExist, ValidationError, ValueError):
        resumption.fail("its user is gone")
    if not getattr(user, "is_active", True):
        resumption.fail("its user is not active any more")
    return user


@contextmanager
def _as_it_was(
    request: Any, schema: str | None, language: str | None, time_zone: str, resumption: Resumption
) -> Iterator[None]:
    """Let this thread have the tenant, URLconf, language and time zone that the request had."""
    prefix = get_script_prefix()
    with ExitStack() as stack:
        if schema is not None:
            stack.enter_context(in_schema(tenant_database(), schema))
            request.tenant = _tenant(schema, resumption)
        try:
            stack.enter_context(timezone.override(ZoneInfo(time_zone)))
        except (ValueError, ZoneInfoNotFoundError):
            resumption.fail(f"its time zone {time_zone!r} is not known")
        stack.enter_context(translation.override(language))
        stack.callback(set_script_prefix, prefix)
        set_script_prefix(request.META["SCRIPT_NAME"] or "/")
        stack.callback(set_urlconf, None)
        set_urlconf(getattr(request, "urlconf", None))
        yield


def _tenant(schema: str, resumption: Resumption) -> Any:
    """The tenant of *schema*, as django-tenants puts it on a request."""
    connection: Any = connections[tenant_database()]
    if not apps.is_installed("django_tenants"):
        return connection.tenant
    model = import_module("django_tenants.utils").get_tenant_model()
    tenant = model.objects.filter(schema_name=schema).first()
    if tenant is None and schema != public_schema():
        resumption.fail(f"its tenant's schema {schema!r} is gone")
    return connection.tenant if tenant is None else tenant
