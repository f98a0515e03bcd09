"""`UNPROTECTED`: what becomes of a key that is sent to a view which would ignore it."""

import logging
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from django.urls import path

from django_idempotency import idempotency_exempt, idempotent
from django_idempotency import middleware as middleware_module
from django_idempotency.exceptions import PolicyError
from tests.app.models import Payment
from tests.app.serving import KEY, is_replay, post
from tests.protection.zoo import Plain, of_api, pay, vip_only

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("by_middleware")]
ROUTES = ["guard/", "exempt/", "pattern/", "class/"]


@pytest.fixture
def counted(monkeypatch) -> list[tuple[str, str, str]]:
    """The decisions that the middleware counts: nothing is counted under test."""
    calls: list[tuple[str, str, str]] = []
    monkeypatch.setattr(middleware_module, "count", lambda *decision: calls.append(decision))
    return calls


@pytest.fixture
def unprotected(settings) -> Any:
    """Set the setting, and serve views that are left out for each reason, and protected ones."""

    def set_to(value: str) -> None:
        settings.IDEMPOTENCY = {"UNPROTECTED": value, "EXEMPT": ["pattern/"]}
        patterns = [
            path("guard/", vip_only(pay())),
            path("exempt/", idempotency_exempt(pay())),
            path("pattern/", pay()),
            path("class/", idempotency_exempt(type("Exempt", (Plain,), {})).as_view()),
            path("protected/", pay()),
            path("decorated/", idempotent(pay())),
            path("api/", of_api(idempotency_exempt(pay()))),
        ]
        settings.ROOT_URLCONF = type("URLconf", (), {"urlpatterns": patterns})

    return set_to


def test_refuse(unprotected, counted, user):
    """400 `key-ignored`, and the view does not run; without a key it does, and protected views are as they were."""
    unprotected("refuse")
    client = Client()

    for route in [*ROUTES, "api/"]:
        response = post(client, url=f"/{route}")
        assert (response.status_code, response.json()["code"]) == (400, "key-ignored")
        assert response.headers["Content-Type"] == "application/problem+json"
    assert not Payment.objects.exists()
    assert counted == [("default", f"POST {route}", "key-ignored") for route in [*ROUTES, "api/"]]
    assert post(client, url="/exempt/", key=None).status_code == 201
    for route in ("protected/", "decorated/"):
        assert post(client, url=f"/{route}").status_code == 201
        assert is_replay(post(client, url=f"/{route}"))


def test_warn(unprotected, counted, caplog):
    """Once per operation in the log, counted each time; the view runs."""
    unprotected("warn")
    client = Client()

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        for _ in range(2):
            for route in ROUTES[1:]:
                assert post(client, url=f"/{route}").status_code == 201

    lines = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
    assert len(lines) == 3
    assert "ignores the idempotency key that is sent to 'POST exempt/': it is marked with" in lines[0]
    assert len(counted) == Payment.objects.count() == 6


def test_ignore_is_the_default(unprotected, counted, caplog, settings):
    """Nothing is said of what is left out on purpose."""
    unprotected("ignore")
    del settings.IDEMPOTENCY["UNPROTECTED"]

    assert post(Client(), url="/exempt/").status_code == 201
    assert counted == []
    assert not [record for record in caplog.records if record.name == "django_idempotency"]


def test_methods_that_need_no_key(unprotected, counted):
    """GET, PUT and DELETE are idempotent by definition: a key there is harmless."""
    unprotected("refuse")

    assert Client().get("/class/", headers=KEY).status_code == 200
    assert Client().put("/exempt/", {"amount": 1}, content_type="application/json", headers=KEY).status_code == 201
    assert Client().delete("/class/", headers=KEY).status_code == 405
    assert counted == []


def test_405_comes_first(unprotected, counted):
    """A class without the method answers as ever."""
    unprotected("refuse")

    assert Client().patch("/class/", headers=KEY).status_code == 405
    assert counted == []


def test_an_asynchronous_server(unprotected, counted):
    """The same there."""
    unprotected("refuse")

    async def request() -> Any:
        return await AsyncClient().post("/exempt/", {"amount": 1}, content_type="application/json", headers=KEY)

    assert async_to_sync(request)().status_code == 400


def test_PROTECT_of_nothing(unprotected, counted, settings):
    """Then the middleware does this alone."""
    unprotected("refuse")
    settings.IDEMPOTENCY = {"UNPROTECTED": "refuse", "PROTECT": []}

    assert post(Client(), url="/protected/").status_code == 400
    assert post(Client(), url="/decorated/").status_code == 201


@pytest.mark.parametrize("value", ["reject", None, True, ["warn"]])
def test_another_value_is_an_error(settings, value):
    """When Django starts."""
    from django_idempotency import conf

    settings.IDEMPOTENCY = {"UNPROTECTED": value}

    with pytest.raises(PolicyError, match=r"\['UNPROTECTED'\] must be"):
        conf.resolved()
