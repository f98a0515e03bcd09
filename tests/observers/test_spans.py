"""Spans of claim, handler and record, in the request's trace; a replay links to the first execution."""

import pytest
from django.test import Client
from opentelemetry import trace

from django_idempotency import once
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import steps
from django_idempotency.models import IdempotencyRecord
from tests.app.serving import is_replay, plain, post
from tests.app.views import make_payment
from tests.asyncs import serving
from tests.observers.test_figures import act, phased
from tests.stores.test_replay_cache import cache, configure

__all__ = ["cache", "configure"]

pytestmark = pytest.mark.django_db(transaction=True)

STEPS = ["idempotency claim", "idempotency handler", "idempotency record"]


def names(spans):
    return [span.name for span in spans]


def inside(request):
    """A handler whose own work is traced."""
    with trace.get_tracer("tests").start_as_current_span("work"):
        return make_payment(request)


async def inside_async(request):
    with trace.get_tracer("tests").start_as_current_span("work"):
        return await serving.make_payment(request)


def inside_phase(request):
    with trace.get_tracer("tests").start_as_current_span("work"):
        return phased(request)


@pytest.mark.parametrize(
    ("view", "options"),
    [(inside, {}), (inside_phase, {"mode": "phased"}), (inside_async, {}), (inside, {"store": "redis"})],
    ids=["atomic", "phased", "async", "redis"],
)
def test_a_replay_links_to_the_first_execution(observed, in_a_trace, serve, keys, view, options):
    """Three spans for an execution, one for a replay. What the handler traces is inside its span."""
    serve(plain(view, **options))
    client = Client()

    first, first_request = in_a_trace(post, client)
    replay, second_request = in_a_trace(post, client)

    _request, claim, handler, work, record, _second, replayed = observed.spans()
    assert names([claim, handler, record]) == STEPS
    assert [span.parent.span_id for span in (claim, handler, record)] == [first_request.span_id] * 3
    assert work.parent.span_id == handler.context.span_id
    assert claim.end_time <= handler.start_time <= handler.end_time <= record.start_time <= record.end_time
    assert claim.attributes["django_idempotency.decision"] == "executed"
    assert replayed.parent.span_id == second_request.span_id != first_request.span_id
    assert replayed.attributes["django_idempotency.decision"] == "replayed"
    assert [(link.context.trace_id, link.context.span_id) for link in replayed.links] == [
        (first_request.trace_id, first_request.span_id)
    ]
    # Nothing of it reaches the client.
    assert is_replay(replay)
    assert replay.content == first.content
    assert f"{first_request.trace_id:032x}" not in str([*first.items(), *replay.items()])


def test_the_replay_cache_keeps_the_link(observed, in_a_trace, serve, cache):
    """A replay that asks no database."""
    serve(plain(make_payment))
    _, first_request = in_a_trace(post, Client())
    in_a_trace(post, Client())
    IdempotencyRecord.objects.all().delete()  # so that only the cache answers

    replay, _ = in_a_trace(post, Client())

    assert is_replay(replay)
    assert [link.context.span_id for link in observed.spans()[-1].links] == [first_request.span_id]


def test_a_record_outlives_the_extra(observed, in_a_trace, serve, monkeypatch):
    """Switched off, the same answer is replayed: nothing of the trace is in it."""
    serve(plain(make_payment))
    first, _ = in_a_trace(post, Client())
    monkeypatch.setattr(steps, "observers", [])
    off = post(Client())

    assert is_replay(off)
    assert off.content == first.content
    assert {**off.headers, "Idempotency-Replayed": None} == {**first.headers, "Idempotency-Replayed": None}


def test_a_record_without_a_trace_is_replayed_without_a_link(observed, in_a_trace, serve, monkeypatch):
    """It was stored before OpenTelemetry was turned on."""
    serve(plain(make_payment))
    with monkeypatch.context() as off:
        off.setattr(steps, "observers", [])
        post(Client())

    replay, _ = in_a_trace(post, Client())

    assert is_replay(replay)
    assert names(observed.spans()) == ["request", "idempotency claim"]
    assert observed.spans()[-1].links == ()


@pytest.mark.parametrize("stored", ["nonsense", "00-0-0-0", 7, None])
def test_a_changed_trace_is_no_link(observed, in_a_trace, serve, stored):
    """Whatever an administrator of the database writes there, the answer is replayed."""
    serve(plain(make_payment))
    in_a_trace(post, Client())
    record = IdempotencyRecord.objects.get()
    head = CompletionRecord(status=201, reason="Created", headers=(("Content-Type", "application/json"),), trace=stored)
    IdempotencyRecord.objects.filter(pk=record.pk).update(head=head.head())

    replay, _ = in_a_trace(post, Client())

    assert is_replay(replay)
    claim = observed.spans()[-1]
    assert (claim.name, claim.links) == ("idempotency claim", ())


def test_work_without_a_trace_gets_one(observed):
    """A consumer that nobody has instrumented: one span around the steps."""
    run = once("observed.alone", key=lambda event: event)(lambda event: 1)

    assert [run("evt-1"), run("evt-1")] == [1, 1]

    around, claim, handler, record, second, replayed = observed.spans()
    assert names([around, claim, handler, record]) == ["idempotency observed.alone", *STEPS]
    assert {span.parent.span_id for span in (claim, handler, record)} == {around.context.span_id}
    assert [link.context.trace_id for link in replayed.links] == [around.context.trace_id]
    assert second.context.trace_id != around.context.trace_id


def test_a_request_that_is_not_sampled_has_no_spans(observed, serve):
    """Its parent's decision holds, and no trace is stored that nobody can open. Its figures are there."""
    serve(plain(make_payment))
    off = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))

    with trace.use_span(off):
        assert [post(Client()).status_code for _ in range(2)] == [201, 201]

    assert observed.spans() == []
    assert IdempotencyRecord.objects.get().record.trace == ""
    assert observed.figures("POST act/") == {"executions": 1, "replays": 1, "claim": 2, "record": 1}


def test_a_handler_that_raises(observed, in_a_trace, serve, keys):
    """Its span says so, by the name of the exception alone: a message may hold what is secret."""
    serve(plain(act, store="redis"))
    in_a_trace(post, Client(raise_request_exception=False), {"amount": "raise"})

    _request, claim, handler = observed.spans()
    assert (handler.status.is_ok, handler.status.description) == (False, "ConnectionError")
    assert handler.events == ()
    assert claim.attributes["django_idempotency.decision"] == "raised"


def test_no_key_is_in_a_span(observed, in_a_trace, serve):
    """Identities as in the logs, so that a search finds both."""
    serve(plain(make_payment))
    in_a_trace(post, Client(), key="secret-key")

    claim = observed.spans()[1]
    assert claim.attributes["django_idempotency.identity"] == IdempotencyRecord.objects.get().digest.hex()
    assert "secret-key" not in "".join(span.to_json() for span in observed.spans())
