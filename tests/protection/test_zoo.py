"""Every kind of view under the middleware: protected behind its guard, or left out and named; never a wrong replay."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connections
from django.test import Client
from django.urls import path
from rest_framework.test import APIClient

from django_idempotency.models import IdempotencyRecord
from django_idempotency.protection.by_default import decide
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.conftest import authenticated
from tests.protection.zoo import ALREADY, ANIMALS, LEFT_OUT, MARKED, PROTECTED, Animal

BY_NAME = {animal.name: animal for animal in ANIMALS}
GUARDED = [animal for animal in ANIMALS if animal.guard]
REPLAYING = [animal for animal in ANIMALS if animal.fate in (PROTECTED, ALREADY)]
RACING = [
    "function behind login_required",
    "class with a guarded post",
    "class with LoginRequiredMixin",
    "partial of as_view",
    "api_view with a permission",
    "viewset, create",
    "viewset, action",
    "function, atomic around a guard",
]
pytestmark = pytest.mark.usefixtures("zoo")


class Zoo:
    """Its URLconf: one route for each animal."""

    urlpatterns = [
        *(path(f"zoo/{number}/", animal.view) for number, animal in enumerate(ANIMALS)),
        path("admin/", admin.site.urls),
    ]


@pytest.fixture
def zoo(settings, by_middleware) -> None:
    settings.ROOT_URLCONF = Zoo


@pytest.fixture
def entitled(user):
    """A user whom every guard of the zoo lets in."""
    user.user_permissions.add(Permission.objects.get(codename="add_payment"))
    user.is_staff = True
    user.first_name = "vip"
    user.save()
    return user


def client_of(animal: Animal, user: Any = None) -> Client:
    if animal.is_drf:
        return APIClient(raise_request_exception=False) if user is None else authenticated(user)
    client = Client(raise_request_exception=False)
    if user is not None:
        client.force_login(user)
    return client


def revoke(animal: Animal, user: Any) -> None:
    """Take from *user* what lets them call the view of *animal*."""
    match animal.guard:
        case "login":
            user.is_active = False
        case "permission":
            user.user_permissions.clear()
        case "staff":
            user.is_staff = False
        case "vip":
            user.first_name = ""
    user.save()


def pay(animal: Animal, client: Client, data: Any = None) -> Any:
    return post(client, data, f"/zoo/{ANIMALS.index(animal)}/")


def zoo_of(animals: list[Animal]) -> Any:
    return pytest.mark.parametrize("animal", animals, ids=[animal.name for animal in animals])


def test_the_zoo_is_large():
    """At least sixty kinds, each under a name of its own."""
    assert len(BY_NAME) == len(ANIMALS) >= 60


@pytest.mark.django_db
@zoo_of(ANIMALS)
def test_a_duplicate(animal, entitled, caplog):
    """A protected view takes effect once, another payload is refused; one that is left out is as it was, and named."""
    client = client_of(animal, entitled)

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        first, second = pay(animal, client), pay(animal, client)

    assert first.status_code == second.status_code == animal.success
    effects = 1 if animal.success < 400 else 0
    said = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
    place = decision(animal)
    if animal.fate in (PROTECTED, ALREADY):
        assert Payment.objects.count() == effects
        assert first.content == second.content
        assert is_replay(second)
        assert not is_replay(first)
        assert place.how != "none"
        assert said == []
    else:
        assert Payment.objects.count() == 2 * effects
        assert not is_replay(second)
        assert not IdempotencyRecord.objects.exists()
        assert place.how == "none"
        assert animal.why in place.why
        assert [animal.why in line for line in said] == ([True] if animal.fate == LEFT_OUT else [])
        assert animal.fate in (LEFT_OUT, MARKED)


def decision(animal: Animal) -> Any:
    return decide(animal.view, f"zoo/{ANIMALS.index(animal)}/", "", "POST")[1]


@pytest.mark.django_db
@zoo_of(REPLAYING)
def test_another_payload(animal, entitled):
    """The key names another request: 422, and nothing runs."""
    client = client_of(animal, entitled)
    pay(animal, client)

    assert pay(animal, client, {"amount": 11}).status_code == 422
    assert Payment.objects.count() == 1


@pytest.mark.django_db
@zoo_of(GUARDED)
def test_a_revoked_user(animal, entitled):
    """Who may not call the view any more gets no replay: what the guard answers, and nothing else."""
    client = client_of(animal, entitled)
    first = pay(animal, client)
    assert first.status_code == animal.success
    effects = Payment.objects.count()
    revoke(animal, entitled)
    # What the guard answers to them without a key.
    refusal = post(client_of(animal, entitled), url=f"/zoo/{ANIMALS.index(animal)}/", key=None)

    again = pay(animal, client)

    assert not is_replay(again)
    assert again.status_code in (302, 401, 403)
    assert again.headers.get("Location", "login").find("login") >= 0
    assert (again.status_code, again.content) == (refusal.status_code, refusal.content)
    assert Payment.objects.count() == effects


@pytest.mark.django_db
@zoo_of([animal for animal in ANIMALS if animal.fate == PROTECTED])
def test_an_anonymous_caller(animal, entitled):
    """Nobody gets the answer of a user: an anonymous caller is refused, or acts for themself."""
    mine = pay(animal, client_of(animal, entitled))

    theirs = pay(animal, client_of(animal))

    assert not is_replay(theirs)
    if animal.guard:
        assert theirs.status_code in (302, 401, 403)
        assert Payment.objects.count() == 1
    else:
        assert theirs.status_code == mine.status_code
        assert Payment.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["APIView with a throttle", "api_view with a throttle"])
def test_a_throttled_caller(name, entitled):
    """A replay counts, and one too many is refused as an execution is."""
    animal = BY_NAME[name]
    client = client_of(animal, entitled)

    assert [pay(animal, client).status_code for _ in range(3)] == [201, 201, 429]


@pytest.mark.race
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", RACING)
def test_a_race(name, entitled):
    """Of simultaneous duplicates one executes; the others get its answer, or are refused as in flight."""
    animal = BY_NAME[name]
    clients = [client_of(animal, entitled) for _ in range(4)]
    start = Barrier(len(clients), timeout=30)

    def race(client: Client) -> Any:
        try:
            start.wait()
            return pay(animal, client)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(clients)) as pool:
        responses = list(pool.map(race, clients))

    assert Payment.objects.count() == 1
    assert {response.status_code for response in responses} <= {animal.success, 409}
    assert len({response.content for response in responses if response.status_code == animal.success}) == 1
