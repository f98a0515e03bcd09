"""Views that decide, in rarer ways, who may call them: no replay to somebody whom the view would refuse now."""

from typing import Any

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.test import Client
from django.urls import path

from django_idempotency.protection.by_default import decide
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.app.views import make_payment
from tests.conftest import authenticated
from tests.protection.zoo import IsVip, Plain, Rest, derived

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
    call_command("check")


def test_permissions_that_are_a_property(serve, browser, user):
    """They are asked, as ever, before a replay; the check runs."""
    serve(derived(Rest, permission_classes=property(lambda self: [IsVip])).as_view())

    client = authenticated(user)
    assert pay(client).status_code == 201
    assert is_replay(pay(client))
    revoke(user)
    assert pay(client).status_code == 403
    assert Payment.objects.count() == 1
    call_command("check")


def test_object_permissions_that_are_a_property():
    """Which they are is not known: left out."""

    def settle(self: Any, request: Any) -> Any:
        self.check_object_permissions(request, None)
        return make_payment(request)

    view = derived(Rest, permission_classes=property(lambda self: [IsVip]), post=settle).as_view()

    assert "object permissions" in place_of(view).why
