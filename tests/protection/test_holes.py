"""Views that decide, in rarer ways, who may call them: no replay to somebody whom the view would refuse now."""

from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.core.checks import run_checks
from django.http import HttpResponseForbidden
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.decorators import method_decorator

from django_idempotency import idempotent
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection import by_default
from django_idempotency.protection.by_default import decide
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.app.views import make_payment
from tests.conftest import authenticated
from tests.protection.zoo import IsVip, Plain, Rest, derived, vip, vip_only

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("by_middleware")]


@pytest.fixture
def serve(settings) -> Any:
    """Serve a view at `view/`."""

    def at(view: Any) -> None:
        settings.ROOT_URLCONF = type(
            "URLconf", (), {"urlpatterns": [path("view/", view), path("admin/", admin.site.urls)]}
        )

    return at


@pytest.fixture
def browser(user) -> Client:
    user.first_name = "vip"
    user.save()
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def pay(client: Client, **extra: Any) -> Any:
    return post(client, url="/view/", **extra)


def revoke(user: Any) -> None:
    user.first_name = ""
    user.save()


def place_of(view: Any) -> Any:
    return decide(view, "view/", "", "POST")[1]


# --- classes that say less than others ---


def test_a_handler_that_is_none(serve, browser):
    """The class takes no such method: its other handlers are protected, and the check runs."""
    view = derived(Plain, put=None).as_view()
    serve(view)

    assert pay(browser).status_code == 201
    assert is_replay(pay(browser))
    assert decide(view, "view/", "", "PUT")[1] is None
    run_checks()


def test_permissions_that_are_a_property(serve, browser, user):
    """They are asked, as ever, before a replay; the check runs."""
    serve(derived(Rest, permission_classes=property(lambda self: [IsVip])).as_view())

    client = authenticated(user)
    assert pay(client).status_code == 201
    assert is_replay(pay(client))
    revoke(user)
    assert pay(client).status_code == 403
    assert Payment.objects.count() == 1
    run_checks()


def test_object_permissions_that_are_a_property():
    """Which they are is not known: left out."""

    def settle(self: Any, request: Any) -> Any:
        self.check_object_permissions(request, None)
        return make_payment(request)

    view = derived(Rest, permission_classes=property(lambda self: [IsVip]), post=settle).as_view()

    assert "object permissions" in place_of(view).why


# --- handlers that an object has, and its class has not ---


class GuardedByInit(Plain):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.post = vip_only(self.post)


class GuardedBySetup(Plain):
    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.post = vip_only(self.post)


class RestGuardedBySetup(Rest):
    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.post = vip_only(self.post)


class RestGuardedByInitial(Rest):
    def refuse(self, request: Any) -> Any:
        return HttpResponseForbidden()

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not vip(request.user):
            self.post = self.refuse


@pytest.mark.parametrize("view", [GuardedByInit, GuardedBySetup, RestGuardedBySetup, RestGuardedByInitial])
def test_a_handler_of_the_object(serve, user, view):
    """It is what Django would call: a guard that the object has around it is asked."""
    user.first_name = "vip"
    user.save()
    client = Client(raise_request_exception=False) if view.__mro__[1] is Plain else authenticated(user)
    client.force_login(user)
    serve(view.as_view())
    assert pay(client).status_code == 201
    revoke(user)

    assert pay(client).status_code == 403
    assert post(client, url="/view/", headers={"Idempotency-Key": "another"}).status_code == 403
    assert Payment.objects.count() == 1


def test_a_handler_that_is_no_method(serve, browser):
    """Python 3.14 calls it with the object, older ones without: left out, and answered as ever."""
    view = derived(Plain, post=partial(lambda *args: make_payment(args[-1]))).as_view()
    serve(view)

    assert pay(browser).status_code == 201
    assert "no plain method" in place_of(view).why


# --- views that are protected already ---


@pytest.mark.parametrize(
    "view",
    [method_decorator(idempotent, name="post")(derived(Plain)), derived(Rest, IdempotencyMixin, permission_classes=[])],
    ids=["decorator", "mixin"],
)
def test_a_class_that_is_protected_already_behind_a_guard_that_is_not_known(serve, browser, settings, view):
    """It stays protected: its key is not refused, and the audit says so."""
    settings.IDEMPOTENCY = {"UNPROTECTED": "refuse"}
    view = vip_only(view.as_view())
    serve(view)

    assert pay(browser).status_code == 201
    assert is_replay(pay(browser))
    assert place_of(view).how in ("decorator", "mixin")


# --- MIDDLEWARE ---


class Late:
    """Has its `process_view` on the object."""

    def __init__(self, get_response: Any) -> None:
        self.next = get_response
        self.process_view = refuse_all

    def __call__(self, request: Any) -> Any:
        return self.next(request)


class Neutral(Late):
    def __init__(self, get_response: Any) -> None:
        self.next = get_response


def late(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        return get_response(request)

    middleware.process_view = refuse_all
    return middleware


def refuse_all(request: Any, view: Any, args: Any, kwargs: Any) -> Any:
    return HttpResponseForbidden()


@pytest.mark.parametrize("name", ["Late", "late"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_process_view_of_an_object_after_ours(serve, settings, name, client):
    """An error when the server starts, whatever stands between, and whichever server it is."""
    serve(Plain.as_view())
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.Neutral", f"{__name__}.{name}"]
    get = client().get if client is Client else async_to_sync(client().get)

    with pytest.raises(PolicyError, match=r"a process_view \(refuse_all\)"):
        get("/view/")


def test_a_middleware_after_ours_without_process_view(serve, settings, browser):
    """It may be there."""
    serve(Plain.as_view())
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.Neutral"]

    assert pay(browser).status_code == 201
    assert is_replay(pay(browser))


def test_methods_that_a_client_makes_up(serve, browser):
    """They take no room of views in what is kept."""
    serve(Plain.as_view())
    browser.generic("MADE-UP-0", "/view/")
    kept = by_default.decide.cache_info().currsize

    for number in range(5):
        browser.generic(f"MADE-UP-{number}", "/view/")

    assert by_default.decide.cache_info().currsize == kept
