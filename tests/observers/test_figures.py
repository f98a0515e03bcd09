"""Each decision is one figure of its operation, in Prometheus and in OpenTelemetry alike, on every road."""

import asyncio
import json
import re

import pytest
from django.db import transaction
from django.test import Client

from django_idempotency import current_operation, idempotent, once
from django_idempotency.engine import announcements, steps
from django_idempotency.operations.figures import FIGURES, PREFIX, TIMES, ByOperation
from django_idempotency.operations.tally import MAX_OPERATIONS, OTHER
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, is_replay, plain, post
from tests.app.views import answer, make_payment
from tests.asyncs import serving
from tests.docs.pages import DOCS, table
from tests.operations.test_signals_and_logs import commit

pytestmark = pytest.mark.django_db(transaction=True)

OPERATION = "POST act/"


def phased(request):
    return answer(request, request.idempotency.phase("pay", lambda: Payment.objects.create(amount=1).pk))


async def in_async(request):
    return await serving.make_payment(request)


def act(request):
    """Answers, refuses, or raises what says nothing about its work, as the body asks."""
    match json.loads(request.body)["amount"]:
        case "refuse":
            return answer(request, {}, 400)
        case "raise":
            raise ConnectionError("timed out")
        case "commit":
            make = Payment.objects.create(amount=1)
            commit()
            return answer(request, {"id": make.pk})
    return make_payment(request)


@pytest.mark.parametrize(
    ("view", "options"),
    [(make_payment, {}), (phased, {"mode": "phased"}), (in_async, {}), (make_payment, {"store": "redis"})],
    ids=["atomic", "phased", "async", "redis"],
)
def test_a_view_of_each_kind(observed, serve, keys, view, options):
    """One execution, one replay, one mismatch, each with a timed claim; what is stored is timed."""
    serve(plain(view, **options))
    client = Client()

    answers = [post(client), post(client), post(client, {"amount": 11})]

    assert [answer.status_code for answer in answers] == [201, 201, 422]
    assert observed.figures(OPERATION) == {"executions": 1, "replays": 1, "mismatches": 1, "claim": 3, "record": 1}


def test_an_async_view_on_a_server(observed, asgi):
    """Its thread is not the test's."""
    server = asgi(idempotent(serving.make_payment))

    answers = [asyncio.run(server.post()) for _ in range(2)]

    assert [answer.is_replay for answer in answers] == [False, True]
    assert observed.figures(OPERATION) == {"executions": 1, "replays": 1, "claim": 2, "record": 1}


def test_a_drf_view(observed, api):
    """The operation is the route, never the path."""
    answers = [post(api, {"amount": 1}, url="/method/7/") for _ in range(2)]

    assert [is_replay(answer) for answer in answers] == [False, True]
    shown = {"executions": 1, "replays": 1, "claim": 2, "record": 1}
    assert observed.figures("POST method/<int:account>/") == shown
    assert observed.figures("POST method/7/") == {}


@pytest.mark.parametrize("store", ["default", "redis"])
def test_a_function(observed, keys, store):
    """`@once` has the name that it was given."""

    @once(f"observed.{store}", key=lambda event: event, store=store)
    def consume(event):
        return current_operation().key

    assert [consume("evt-1") for _ in range(2)] == ["evt-1", "evt-1"]
    assert observed.figures(f"observed.{store}") == {"executions": 1, "replays": 1, "claim": 2, "record": 1}


def test_a_conflict(observed, serve, keys, gate, background):
    """The second request comes while the first is in its handler."""

    def slow(request):
        gate.wait()
        return make_payment(request)

    serve(plain(slow, store="redis"))
    first = background(post, Client())
    gate.reached()

    assert post(Client()).status_code == 409

    gate.open()
    assert first.result(TIMEOUT).status_code == 201
    assert observed.figures(OPERATION) == {"executions": 1, "conflicts": 1, "claim": 2, "record": 1}


def test_a_refusal_of_the_handler(observed, serve):
    """It ran, and its work is forgotten."""
    serve(plain(act))

    assert post(Client(), {"amount": "refuse"}).status_code == 400
    assert observed.figures(OPERATION) == {"forgotten": 1, "claim": 1}


def test_an_unknown_outcome(observed, serve, keys):
    """A handler outside the databases that raised leaves one, which refuses the retry."""
    serve(plain(act, store="redis"))
    client = Client(raise_request_exception=False)

    assert [post(client, {"amount": "raise"}).status_code for _ in range(2)] == [500, 409]
    assert observed.figures(OPERATION) == {"unsettled": 1, "unknown_outcomes": 1, "claim": 2}


def test_a_store_that_is_away(observed, serve, away):
    """The handler does not run."""
    serve(plain(act, store="away"))

    assert post(Client()).status_code == 503
    assert observed.figures(OPERATION) == {"store_errors": 1, "claim": 1}


def test_what_rolls_back_is_not_counted(observed, serve):
    """An execution inside a transaction of the project's counts after its COMMIT, and not if there is none."""
    run = once("observed.inside", key=lambda event: event)(lambda event: Payment.objects.create(amount=1).pk)
    with transaction.atomic():
        run("kept")
        assert "executions" not in observed.figures("observed.inside")
    with transaction.atomic():
        run("undone")
        transaction.set_rollback(True)

    assert observed.figures("observed.inside") == {"executions": 1, "claim": 2, "record": 2}


def test_an_observer_that_raises_breaks_nothing(observed, serve, monkeypatch, caplog):
    """It is logged; the request is answered, and the other observers see it."""

    def broken(seen):
        raise ValueError("a defect of the observer")

    for place, name in [(announcements, "observers"), (steps, "observers"), (steps, "around_handlers")]:
        monkeypatch.setattr(place, name, [broken, *getattr(place, name)])
    steps.around_handlers.append(lambda run: broken)
    serve(plain(make_payment))

    assert [post(Client()).status_code for _ in range(2)] == [201, 201]
    assert Payment.objects.count() == 1
    assert observed.figures(OPERATION) == {"executions": 1, "replays": 1, "claim": 2, "record": 1}
    said = caplog.messages.count("An observer has raised, and what it should have seen is not shown")
    assert said == 2 + 2 + 1 + 1  # of both decisions, of both runs, and at both ends of the handler


def test_names_are_bounded():
    """A callable `operation` may make up one for each request; a label for each would fill the server's memory."""
    made = ByOperation(str)

    names = {made[f"operation {number}"] for number in range(2 * MAX_OPERATIONS)}

    assert len(made) == MAX_OPERATIONS + 1
    assert OTHER in names


def test_the_manual_and_the_dashboard_name_the_figures_that_exist():
    """The table has each of them once. The dashboard asks for no other, and by the label that they have."""
    names = {f"{PREFIX}_{name}_total" for name, _help in FIGURES.values()} | {
        f"{PREFIX}_{step}_seconds" for step in TIMES
    }
    rows = table(DOCS / "how-to" / "watch-with-prometheus-and-opentelemetry.md", "Prometheus", "OpenTelemetry")
    queries = (DOCS / "_static" / "grafana-dashboard.json").read_text()

    assert sorted(row["Prometheus"].strip("`") for row in rows) == sorted(names)
    assert {row["OpenTelemetry"].strip("`") for row in rows} == {
        re.sub("_(total|seconds)$", "", name).replace(f"{PREFIX}_", f"{PREFIX}.") for name in names
    }
    asked = set(re.findall(rf"{PREFIX}_\w+", queries))
    assert {name.removesuffix("_bucket") for name in asked} <= names
    assert set(re.findall(r"by \((\w+)\)", queries)) == {"le", "operation"}
