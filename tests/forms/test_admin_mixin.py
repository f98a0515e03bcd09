"""The add and change pages of a `ModelAdmin` with `IdempotencyAdminMixin`."""

from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.checks import run_checks
from django.test import Client
from django.views import View

from django_idempotency import Policy
from django_idempotency.admin import IdempotencyAdminMixin
from django_idempotency.exceptions import PolicyError
from django_idempotency.operations.audit import endpoints
from django_idempotency.templatetags.idempotency import new_key
from tests.app.models import Payment
from tests.app.serving import is_replay
from tests.forms import site
from tests.forms.conftest import FIELD, KEY, amounts, key_in

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.forms.site")]

ADD = "/admin/app/payment/add/"


@pytest.fixture
def staff(admin_user):
    client = Client(raise_request_exception=False, headers={"Accept": "text/html"})
    client.force_login(admin_user)
    return client


def save(client, url=ADD, key=KEY, **fields):
    return client.post(url, {"amount": 10, "reference": "a", "_idempotency_key": key, **fields})


def test_adding_and_changing_take_effect_once(staff):
    """One row, one entry in its history, one message, whichever answer is seen."""
    for url in (ADD, "/admin/app/payment/{}/change/"):
        url = url.format(Payment.objects.first() and Payment.objects.get().pk)
        LogEntry.objects.all().delete()
        key = key_in(staff.get(url))

        first, second = save(staff, url, key, reference="b"), save(staff, url, key, reference="b")

        assert (first.status_code, is_replay(second)) == (302, True)
        assert second.headers["Location"] == first.headers["Location"]
        assert staff.get(second.headers["Location"]).content.count(b'class="success"') == 1
        assert (amounts(), LogEntry.objects.count()) == ([10], 1)


def test_errors_are_mended_under_their_key(staff):
    """As in any other form."""
    shown = save(staff, amount="")

    assert (shown.status_code, key_in(shown)) == (200, KEY)
    assert [is_replay(save(staff)) for _ in range(2)] == [False, True]
    other = save(staff, amount=11)
    assert (other.status_code, b"<h1>" in other.content) == (422, True)
    assert amounts() == [10]


def test_a_pop_up_is_answered_once(staff):
    """Its answer is a page that closes the window, with the new row in it."""
    first, second = (save(staff, ADD + "?_popup=1", _popup="1") for _ in range(2))

    assert (first.status_code, is_replay(second), second.content) == (200, True, first.content)
    assert amounts() == [10]
    invalid = save(staff, ADD + "?_popup=1", new_key(), _popup="1", amount="")
    assert b"errornote" in invalid.content


@pytest.mark.parametrize(
    ("url", "codename"), [(ADD, "add_payment"), ("/admin/app/payment/1/change/", "change_payment")]
)
def test_who_lost_the_permission_gets_no_replay(django_user_model, url, codename):
    """Permissions are asked before a replay, as before a first saving."""
    Payment.objects.create(pk=1, amount=1)
    clerk = django_user_model.objects.create_user("clerk", is_staff=True)
    kind = ContentType.objects.get_for_model(Payment)
    permission, _ = Permission.objects.get_or_create(codename=codename, content_type=kind)
    clerk.user_permissions.add(permission)
    client = Client()
    client.force_login(clerk)

    assert [is_replay(save(client, url)) for _ in range(2)] == [False, True]
    clerk.user_permissions.clear()
    assert save(client, url).status_code == 403


def test_a_form_of_the_projects_own_has_the_key(staff, monkeypatch, settings):
    """Its template is extended, not replaced; `idempotency` holds for the pages."""
    template = "{% extends 'admin/change_form.html' %}{% block form_top %}<p>Mind the gap</p>{% endblock %}"
    loaders = [
        ("django.template.loaders.locmem.Loader", {"own.html": template}),
        "django.template.loaders.app_directories.Loader",
    ]
    backend = {**settings.TEMPLATES[0], "APP_DIRS": False}
    settings.TEMPLATES = [{**backend, "OPTIONS": {**backend["OPTIONS"], "loaders": loaders}}]
    monkeypatch.setattr(site.PaymentAdmin, "change_form_template", "own.html")
    monkeypatch.setattr(site.PaymentAdmin, "idempotency", Policy(key_format="uuid"))

    response = staff.get(ADD)

    assert b"<p>Mind the gap</p>" in response.content
    assert FIELD.search(response.content)
    assert save(staff, key="no-uuid").status_code == 400


def test_the_middleware_knows_that_they_are_protected(admin_user, settings):
    """Their keys are not refused as ignored; the audit lists them, with their options."""
    csrf, ours = "django.middleware.csrf.CsrfViewMiddleware", "django_idempotency.middleware.IdempotencyMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, csrf, ours]
    settings.IDEMPOTENCY = {"UNPROTECTED": "refuse"}
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    client.get(ADD)
    token = client.cookies["csrftoken"].value

    answers = [save(client, csrfmiddlewaretoken=token) for _ in range(2)]

    assert [(each.status_code, is_replay(each)) for each in answers] == [(302, False), (302, True)]
    found = {each.route: each for each in endpoints() if each.protection == "mixin"}
    assert {route.rpartition("app/")[2] for route in found} == {
        f"{model}/{page}/" for model in ("payment", "child") for page in ("add", "<path:object_id>/change")
    }
    assert found["admin/app/child/add/"].options["key_format"] == "'uuid'"


@pytest.mark.parametrize(
    ("bases", "attributes", "message"),
    [
        ((IdempotencyAdminMixin, View), {}, "is none"),
        ((IdempotencyAdminMixin, admin.TabularInline), {}, "is none"),
        ((admin.ModelAdmin, IdempotencyAdminMixin), {}, "must come before"),
        ((IdempotencyAdminMixin, admin.ModelAdmin), {"idempotency": {"ttl": 1}}, "must be a Policy"),
    ],
)
def test_a_wrong_class_is_an_error_at_its_definition(bases, attributes, message):
    """It shows the right one. A mixin of the project's own may build on ours."""
    with pytest.raises(PolicyError, match=message):
        type("Wrong", bases, attributes)
    assert type("Mixin", (IdempotencyAdminMixin,), {})


@pytest.mark.parametrize(
    ("policy", "id"),
    [
        (Policy(using="other"), "E007"),
        (Policy(scope="tests.absent.scope"), "E003"),
        (Policy(key_max_age=timedelta(days=2)), "W019"),
        (Policy(), None),
    ],
)
def test_checks(monkeypatch, policy, id):
    """What other views' checks find in the URLconf, the admin's own checks find here."""
    monkeypatch.setattr(site.PaymentAdmin, "idempotency", policy)

    found = [each.id for each in run_checks() if isinstance(each.id, str) and "PaymentAdmin" in each.msg]

    assert found == ([f"django_idempotency.{id}"] if id else [])
