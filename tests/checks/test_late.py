"""E017, W019 and W020: options about late retries that do not fit together."""

from datetime import timedelta

import pytest
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.urls import path, re_path

from django_idempotency import idempotent, once
from django_idempotency.testing.memory import MemoryStore

HOUR = timedelta(hours=1)


class Forgetful(MemoryStore):
    """As a store that was written before there were tombstones."""

    keeps_tombstones = False


def view(**options):
    return login_required(idempotent(**options)(lambda request, **parameters: HttpResponse()))


def test_E017(settings, check):
    """Of views and of functions."""
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": f"{__name__}.Forgetful"}}}
    once("checked.late", key=str, store="memory", tombstone_ttl=HOUR)(module_level)

    messages = check(view(store="memory", tombstone_ttl=HOUR), view(store="memory"), view(tombstone_ttl=HOUR))

    assert [message.id[-4:] for message in messages] == ["E017", "E017"]
    assert all("'memory'" in message.msg for message in messages)


def module_level(event):
    """A function of a queue."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ttl": 25 * HOUR}, []),
        ({"ttl": 24 * HOUR + timedelta(seconds=60)}, []),
        ({"ttl": 24 * HOUR}, ["W019"]),
        ({"ttl": HOUR, "tombstone_ttl": 23 * HOUR}, ["W019"]),
        ({"ttl": HOUR, "tombstone_ttl": 24 * HOUR}, []),
    ],
)
def test_W019(ids, options, expected):
    """By the minute that a client's clock may be ahead."""
    assert ids(view(key_max_age=24 * HOUR, **options)) == expected


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("POST old/<int:pk>/", []),
        ("POST ^old/(?P<pk>[^/.]+)/$", []),
        ("POST api/<slug:pk>/^old/$", []),
        ("payments", []),
        ("POST old/<int:id>/", ["W020"]),
        ("POST ^old/([0-9]+)/$", ["W020"]),
        ("POST ^(old|older)/(?P<pk>[^/.]+)/$", ["W020"]),
    ],
)
@pytest.mark.parametrize(
    "route", [path("new/<uuid:pk>/", view), re_path("^new/(?P<pk>[0-9]+)/$", view)], ids=["path", "regex"]
)
def test_W020(ids, route, alias, expected):
    """From the parameters of today's."""
    route.callback = view(operation_aliases=[alias])

    assert ids(route) == expected
