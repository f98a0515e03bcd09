"""`operations.probing`: the probe of each unsettled outcome is asked, for clients that never come back."""

from datetime import timedelta

import pytest
from django.http import HttpResponse, JsonResponse
from django.test import Client
from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.response import Response

from django_idempotency import idempotent, once
from django_idempotency.core.policy import POLICY
from django_idempotency.exceptions import OutcomeUncertain, OutcomeUnknown
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.probing import Outcome, Probes
from django_idempotency.probes import NOT_DONE, UNSURE, Found
from django_idempotency.protection import functions
from django_idempotency.stores import stores

pytestmark = pytest.mark.django_db(transaction=True)

ANSWERS = {}  # of the probe, by key
asked = {}  # operation by key
ran = []


def probe(operation):
    asked[operation.key] = operation
    answer = ANSWERS[operation.key]
    if isinstance(answer, Exception):
        raise answer
    return answer


class Lost(Exception):
    """The gateway has not answered."""


def work(key):
    ran.append(key)
    if ran.count(key) == 1:
        raise Lost
    return {"again": True}


@once("probing.event", key=str, uncertain=probe, store="memory")
def event(key):
    return work(key)


@once("probing.silent", key=str, store="memory")
def silent(key):
    return work(key)


@once("probing.rows", key=str, uncertain=probe)
def rows(key):
    return work(key)


@idempotent(store="memory", uncertain=probe, ttl=timedelta(hours=1))
def view(request, number):
    derived[request.idempotency.key] = request.idempotency.derive_key("gateway")
    return JsonResponse(work(request.idempotency.key))


derived = {}
urlpatterns = [path("things/<int:number>/", view)]


@pytest.fixture(autouse=True)
def _project(settings, monkeypatch):
    named = {"probing.event": event, "probing.silent": silent, "probing.rows": rows}
    known = {name: (name, getattr(function, POLICY)) for name, function in named.items()}
    monkeypatch.setattr(functions, "once_functions", known)
    for each in (ANSWERS, asked, derived, ran):
        each.clear()
    settings.ROOT_URLCONF = __name__
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}
    stores["memory"].clear()


def post(key, number=1):
    client = Client(headers={"idempotency-key": key}, raise_request_exception=False)
    return client.post(f"/things/{number}/", {"amount": 10})


def lose(call, key):
    """Let *call* end without an outcome; in the database, its handler has committed by itself."""
    if call is rows:
        ran.append(key)
        rows(key)
        IdempotencyRecord.objects.filter(key=key).update(status=0, head=b"", body=b"")
    elif call is post:
        assert post(key).status_code == 500
    else:
        with pytest.raises(Lost):
            call(key)


def ask():
    """What came of asking the probes of all unsettled outcomes, by key."""
    places = [locations.database("default"), *locations.others().values()]
    records, errors = locations.find_unsettled(places, 100)
    assert errors == []
    return {each.record.key: each.outcome for each in Probes().ask_each(records)}


@pytest.mark.parametrize("call", [event, rows, post])
def test_each_is_asked_and_dealt_with(call):
    """What was found is replayed, what was not done is free and runs, and the rest stays as it was."""
    found = {"id": 7} if call is not post else JsonResponse({"id": 7}, status=201)
    ANSWERS.update(found=Found(found), free=NOT_DONE, unsure=UNSURE, failed=ValueError("away"), wrong="yes")
    for key in ANSWERS:
        lose(call, key)
    before = {record.key: record.executed_at for record in unsettled()}

    assert ask() == {
        "found": Outcome.SETTLED,
        "free": Outcome.FREED,
        "unsure": Outcome.UNSURE,
        "failed": Outcome.UNSURE,
        "wrong": Outcome.UNSURE,
    }
    assert {record.key: record.executed_at for record in unsettled()} == {
        key: at for key, at in before.items() if key in ("unsure", "failed", "wrong")
    }
    asked.clear()
    if call is post:
        replay = post("found")
        assert (replay.status_code, replay.json(), replay["Idempotency-Replayed"]) == (201, {"id": 7}, "true")
        assert post("free").json() == {"again": True}
        assert post("unsure").status_code == 409
    else:
        assert call.run("found").value == {"id": 7}
        assert call("free") == {"again": True}
        with pytest.raises(OutcomeUnknown):
            call("unsure")
    assert [*asked] == ["unsure"]  # by the retry
    assert ran.count("found") == 1 + (call is rows)


def unsettled():
    return [*stores["memory"].unsettled(None, 100), *stores["default"].unsettled(None, 100)]


def test_a_probe_gets_what_the_handler_had():
    """The derived key is the handler's, and the request's line says what was asked for."""
    ANSWERS["one"] = NOT_DONE
    lose(post, "one")
    ask()

    operation = asked["one"]
    assert operation.derive_key("gateway") == derived["one"]
    assert (operation.operation, operation.request) == (
        "POST things/<int:number>/",
        "POST testserver things/<int:number>/",
    )


def test_what_has_no_probe_is_left():
    """An operator decides: its option is "refuse", or its code is gone."""
    lose(silent, "silent")

    assert ask() == {"silent": Outcome.NO_PROBE}
    assert [record.key for record in unsettled()] == ["silent"]


def test_what_a_retry_asks_about_is_left_to_it():
    """Nor is an outcome touched that was settled since it was listed."""
    ANSWERS.update(one=NOT_DONE)
    lose(event, "one")
    [record] = unsettled()
    nested = []

    def ask_too(operation):
        nested.extend(Probes().ask_each([record]))
        return NOT_DONE

    inner = once("probing.event", key=str, uncertain=ask_too, store="memory")(lambda key: "done")

    assert inner("one") == "done"
    assert [each.outcome for each in nested] == [Outcome.BUSY]
    assert [each.outcome for each in Probes().ask_each([record])] == [Outcome.BUSY]


def test_json_is_a_views_answer_too():
    """With its status."""
    ANSWERS["one"] = Found({"id": 8}, status=202)
    lose(post, "one")

    retry = post("one")

    assert (retry.status_code, retry.json(), retry["Content-Type"]) == (202, {"id": 8}, "application/json")


@pytest.mark.parametrize("form", ["a response", "json"])
def test_a_drf_view_gives_what_was_found(form):
    """A response as the handler would have made it, rendered for the retry, or JSON."""

    @api_view(["POST"])
    @permission_classes([])
    @idempotent(store="memory", scope=lambda request: "shop", uncertain=probe)
    def pay(request):
        raise Lost

    ANSWERS["one"] = Found(Response({"id": 8}, status=201)) if form == "a response" else Found({"id": 8}, status=201)
    urlpatterns.append(path("pay/", pay))
    try:
        client = Client(headers={"idempotency-key": "one"}, raise_request_exception=False)
        assert client.post("/pay/").status_code == 500
        answers = [client.post("/pay/") for _ in range(2)]
    finally:
        urlpatterns.pop()

    assert [(each.status_code, each.json(), each["Idempotency-Replayed"]) for each in answers] == [
        (201, {"id": 8}, "true")
    ] * 2
    assert answers[0].content == answers[1].content
    assert answers[0].headers["Content-Type"] == "application/json"


def test_a_reference_is_left_to_the_retry(settings):
    """Only the request can make one, for the option `record`."""

    @idempotent(
        store="memory",
        uncertain=lambda operation: Found({"id": 9}),
        record=lambda request, response: 9,
        replay=lambda request, reference: HttpResponse(f"number {reference}"),
    )
    def referring(request):
        raise OutcomeUncertain("lost")

    urlpatterns.append(path("referring/", referring))
    try:
        client = Client(headers={"idempotency-key": "one"}, raise_request_exception=False)
        assert client.post("/referring/").status_code == 500
        assert ask() == {"one": Outcome.UNSURE}
        assert client.post("/referring/").content == b"number 9"
    finally:
        urlpatterns.pop()
