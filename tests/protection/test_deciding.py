"""Handlers that decide themselves who may call them, each in a way of its own: left out, named, never a replay."""

import hmac
from functools import cached_property, lru_cache
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import authenticate
from django.contrib.auth.decorators import login_required, user_passes_test
from django.contrib.auth.mixins import AccessMixin, LoginRequiredMixin, UserPassesTestMixin
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from django.utils.decorators import method_decorator
from django.utils.functional import SimpleLazyObject
from rest_framework import generics, viewsets
from rest_framework.permissions import IsAuthenticated
from rules.contrib.views import PermissionRequiredMixin

from django_idempotency.protection.by_default import decide
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.app.views import make_payment
from tests.conftest import authenticated
from tests.protection import guards
from tests.protection.guards import Checker, NotVip, NotVipApi, check, vip, vips_only
from tests.protection.zoo import IsVip, IsVipsObject, Plain, Rest, derived, of_api

is_vip = user_passes_test(vip, login_url="/login/")
VIEWS: dict[str, tuple[Any, str]] = {}  # by name: the view, and what of it is named


def keep(name: str, why: str) -> Any:
    def add(view: Any) -> Any:
        VIEWS[name] = (view.as_view() if isinstance(view, type) else view, why)
        return view

    return add


# --- another view, or a function behind a guard ---


@is_vip
def guarded(request: Any) -> Any:
    return make_payment(request)


@vips_only
def guarded_by_the_project(request: Any) -> Any:
    return make_payment(request)


class Guarded(LoginRequiredMixin, UserPassesTestMixin, Plain):
    raise_exception = True

    def test_func(self) -> bool:
        return vip(self.request.user)


class GuardedMethod(Plain):
    @method_decorator(is_vip)
    def post(self, request: Any, **kwargs: Any) -> Any:
        return self.pay(request)

    def pay(self, request: Any) -> Any:
        return make_payment(request)


guarded_view = Guarded.as_view()
api = Rest.as_view(permission_classes=[IsVip])
TABLE = {"POST": [guarded]}


@keep("calls a function behind a guard", "user_passes_test around guarded")
def calls_guarded(request: Any) -> Any:
    return guarded(request)


@keep("calls a function behind the project's guard", "vips_only, which is not known, around")
def calls_guarded_by_the_project(request: Any) -> Any:
    return guarded_by_the_project(request)


@keep("a table of functions behind guards", "user_passes_test around guarded")
def by_table(request: Any) -> Any:
    return TABLE[request.method][0](request)


@keep("a view made in the handler", "it calls the view Guarded")
class AsViewInHandler(Plain):
    def post(self, request: Any, **kwargs: Any) -> Any:
        return Guarded.as_view()(request)


@keep("a view made before", "it calls the view Guarded")
def calls_view(request: Any) -> Any:
    return guarded_view(request)


@keep("a DRF view", "it calls the view Rest")
def calls_api(request: Any) -> Any:
    return api(request)


@keep("a view in an attribute", "vips_only, which is not known, around")
class ViewInAttribute(Plain):
    view = staticmethod(guarded_by_the_project)

    def post(self, request: Any, **kwargs: Any) -> Any:
        return self.view(request)


@keep("super() behind a guard", "user_passes_test")
class SuperBehindGuard(GuardedMethod):
    def post(self, request: Any, **kwargs: Any) -> Any:
        return super().post(request)


@keep("a method behind a guard", "user_passes_test")
class MethodBehindGuard(Plain):
    def post(self, request: Any, **kwargs: Any) -> Any:
        return self.pay(request)

    @method_decorator(is_vip)
    def pay(self, request: Any) -> Any:
        return make_payment(request)


@keep("a generic view's method behind a guard", "user_passes_test")
class CreateBehindGuard(generics.CreateAPIView):
    permission_classes = [IsAuthenticated]

    @method_decorator(is_vip)
    def create(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return make_payment(request)


@keep("a guard applied in the handler", "login_required in inline")
def inline(request: Any) -> Any:
    return login_required(is_vip(make_payment))(request)


# --- helpers ---


@keep("a helper of a module", "PermissionDenied in require_vip")
def of_module(request: Any) -> Any:
    guards.require_vip(request)
    return make_payment(request)


@keep("a helper imported in the handler", "PermissionDenied in require_vip")
def imports_helper(request: Any) -> Any:
    from tests.protection.guards import require_vip

    require_vip(request)
    return make_payment(request)


@keep("a relative import in the handler", "PermissionDenied in require_vip")
def imports_module(request: Any) -> Any:
    from . import guards as mine

    mine.require_vip(request)
    return make_payment(request)


@keep("an import that fails", "cannot be read: No module named")
def imports_nothing(request: Any) -> Any:
    try:
        from tests.protection import no_such_module  # noqa: F401
    except ImportError:
        guards_of_old = False
    if not (guards_of_old or getattr(request.user, "first_name", "")):
        return HttpResponse(status=400)
    return make_payment(request)


@keep("a class that checks", "PermissionDenied in require_vip")
def by_class(request: Any) -> Any:
    Checker(request)
    return make_payment(request)


@keep("an object that checks", "PermissionDenied in require_vip")
def by_object(request: Any) -> Any:
    check(request)
    return make_payment(request)


@lru_cache
def cached_check(name: str) -> None:
    if name != "vip":
        raise PermissionDenied


@keep("a helper that is cached", "PermissionDenied in cached_check")
def by_cached(request: Any) -> Any:
    cached_check(request.user.first_name)
    return make_payment(request)


@keep("a cached property", "PermissionDenied in CachedProperty.account")
class CachedProperty(Plain):
    @cached_property
    def account(self) -> int:
        if not vip(self.request.user):
            raise PermissionDenied
        return 1

    def post(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request) if self.account else None


# --- refusals ---


@keep("an exception of its own", "NotVip")
def own_exception(request: Any) -> Any:
    if not vip(request.user):
        raise NotVip
    return make_payment(request)


def own_api_exception(request: Any) -> Any:
    if not vip(request.user):
        raise NotVipApi
    return make_payment(request)


keep("an exception with a status", "NotVipApi")(of_api(own_api_exception))


@keep("a refusal of the mixin", "handle_no_permission")
class AccessInHandler(AccessMixin, Plain):
    raise_exception = True

    def post(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request) if vip(request.user) else self.handle_no_permission()


# --- credentials ---


@keep("a signature", "compare_digest")
def webhook(request: Any) -> Any:
    if not hmac.compare_digest(request.user.first_name, "vip"):
        return HttpResponse(status=400)
    return make_payment(request)


@keep("a password", "authenticate in by_credentials")
def by_credentials(request: Any) -> Any:
    authenticate(request, username="nobody", password="secret")
    return make_payment(request) if vip(request.user) else HttpResponse(status=400)


# --- permissions of DRF that an object chooses ---


class ObjectChooses(viewsets.GenericViewSet):
    permission_classes = [IsAuthenticated]
    queryset = Payment.objects.order_by("pk")

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        self.permission_classes = [IsAuthenticated, IsVipsObject]
        super().initial(request, *args, **kwargs)

    def settle(self, request: Any) -> Any:
        self.check_object_permissions(request, None)
        return make_payment(request)


keep("permissions set on the object", "object permissions")(ObjectChooses.as_view({"post": "settle"}))


# --- views that are given views ---


class Given(Plain):
    given: Any = None

    def post(self, request: Any, **kwargs: Any) -> Any:
        view = self.given["pay"] if isinstance(self.given, dict) else self.given.as_view()
        return view(request)


keep("a table of views for as_view()", "given something to call")(Given.as_view(given={"pay": guarded}))
keep("a class for as_view()", "given something to call")(Given.as_view(given=Guarded))


@pytest.fixture
def serve(settings, by_middleware) -> Any:
    def at(view: Any) -> None:
        patterns = [path("view/", view), path("admin/", admin.site.urls)]
        settings.ROOT_URLCONF = type("URLconf", (), {"urlpatterns": patterns})

    return at


@pytest.mark.django_db
@pytest.mark.parametrize("name", VIEWS)
def test_a_revoked_user(serve, user, name):
    """They get what the view answers them, and no replay."""
    view, why = VIEWS[name]
    user.first_name = "vip"
    user.save()
    client = authenticated(user) if hasattr(view, "cls") or "DRF" in name else Client(raise_request_exception=False)
    client.force_login(user)
    serve(view)
    assert post(client, url="/view/").status_code == 201
    user.first_name = ""
    user.save()

    again = post(client, url="/view/")

    assert again.status_code in (302, 400, 403)
    assert not is_replay(again)
    assert Payment.objects.count() == 1
    place = decide(view, "view/", "", "POST")[1]
    assert place.is_unplaced
    assert why in place.why


class Hidden:
    @property
    def __class__(self) -> Any:
        raise LookupError("out of reach")


HIDDEN = Hidden()


def hides(request: Any) -> Any:
    return HIDDEN or make_payment(request)


def test_an_object_that_nobody_may_look_at():
    """In doubt, left out: no error."""
    assert "cannot be read: out of reach" in decide(hides, "view/", "", "POST")[1].why


# --- handlers that decide nothing ---

LAZY = SimpleLazyObject(lambda: 1 / 0)
LOOP: dict[str, Any] = {"names": [1]}
LOOP["self"] = LOOP


class Anything:
    def __getattr__(self, name: str) -> None:
        """Every attribute is there, `__globals__` too."""


ANYTHING = Anything()


class OwnedByRules(PermissionRequiredMixin, Plain):
    """Its guard's own `get_permission_object` names a view, and is asked before the handler."""

    permission_required = "app.add_payment"

    def post(self, request: Any) -> Any:
        return self.get_permission_object() or make_payment(request)


def harmless(request: Any) -> Any:
    from tests.app import models

    if request.method == "":
        return LAZY, LOOP, ANYTHING, models.Payment
    return make_payment(request)


def test_a_harmless_handler():
    """It is protected: what it names is looked at, and not run."""
    assert decide(harmless, "view/", "", "POST")[1].how == "middleware"
    assert (
        decide(derived(Plain, extra=None).as_view(extra={"a": [1, Payment]}), "view/", "", "POST")[1].how
        == "middleware"
    )
    assert decide(OwnedByRules.as_view(), "view/", "", "POST")[1].how == "middleware"


def test_a_pattern_that_gives_a_table_of_views(serve, client):
    """As one that gives a view."""
    from django_idempotency.protection.by_default import place_for

    assert "its URL pattern gives" in place_for(harmless, "view/", "", "POST", [{"pay": [guarded]}])[1].why
    assert place_for(harmless, "view/", "", "POST", [{"pay": [1]}])[1].how == "middleware"
