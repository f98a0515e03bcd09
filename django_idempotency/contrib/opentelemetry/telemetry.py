"""
The spans and the instruments, and the observers that fill them.

A protected request has one span for each step: the claim, the handler, the record. They are children of the span that
the request has, if that is sampled; work that has none gets one around them. The place of the first execution in its
trace is stored with the record, so that the claim of a replay links to it.

The request's thread only notes what is needed; `later` makes spans and figures of it.
"""

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_idempotency import __version__
from django_idempotency.engine.announcements import Announcement
from django_idempotency.engine.execution import Executed, Refused, Replayed
from django_idempotency.engine.steps import CLAIM, HANDLER, Run
from django_idempotency.operations.figures import BUCKETS, FIGURES, OPERATION, PREFIX, TIMES, ByOperation, figure_of
from django_idempotency.stores.later import later

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImproperlyConfigured(
        '"django_idempotency.contrib.opentelemetry" in INSTALLED_APPS needs OpenTelemetry\'s API:'
        ' pip install "django-idempotency[opentelemetry]"'
    ) from error

tracer = trace.get_tracer(PREFIX, __version__)
meter = metrics.get_meter(PREFIX, __version__)
_counters = {
    figure: meter.create_counter(f"{PREFIX}.{name}", description=text) for figure, (name, text) in FIGURES.items()
}
_histograms = {
    step: meter.create_histogram(
        f"{PREFIX}.{step}", unit="s", description=text, explicit_bucket_boundaries_advisory=BUCKETS
    )
    for step, text in TIMES.items()
}
_labels = ByOperation(lambda name: {OPERATION: name})
_propagator = TraceContextTextMapPropagator()
_making = Lock()


def count(announcement: Announcement) -> None:
    """Count the decision that *announcement* reports: an observer of `announcements`."""
    announcement.when_final(partial(later, _count, announcement))


def _count(announcement: Announcement) -> None:
    _counters[figure_of(announcement.decision)].add(1, _labels[announcement.identity.operation])


def enter_handler(run: Run) -> Callable[[BaseException | None], None]:
    """Let the span of the handler of *run* be current: an observer of `steps`. What it returns ends that."""
    around = context.get_current()
    parent = trace.get_current_span(around).get_span_context()
    own = None
    if not parent.is_valid:
        own = _own_span(run, around)
        around, parent = trace.set_span_in_context(own, around), own.get_span_context()
    span = run.span = HandlerSpan(run.marks[-1][1], around, own)
    if parent.trace_flags.sampled:  # else nobody could open the link
        run.trace = f"00-{parent.trace_id:032x}-{parent.span_id:016x}-{parent.trace_flags:02x}"
        span.token = context.attach(trace.set_span_in_context(span, around))
    return span.leave


def report(run: Run) -> None:
    """Report a *run* that is over: an observer of `steps`."""
    later(_report, run, context.get_current())


def _report(run: Run, around: context.Context) -> None:
    """Make the figures and the spans of a *run* that is over, *around* which this was the context."""
    labels = _labels[run.attempt.identity.operation]
    handler: HandlerSpan | None = run.span
    if handler is not None:
        around, own = handler.around, handler.own
    elif trace.get_current_span(around).get_span_context().is_valid:
        own = None
    else:
        own = _own_span(run, around)
        around = trace.set_span_in_context(own, around)
    is_sampled = trace.get_current_span(around).get_span_context().trace_flags.sampled
    token = context.attach(around)  # of the figures' exemplars, and the parent of the spans
    try:
        for step, began, ended in run.steps():
            if step in _histograms:
                _histograms[step].record((ended - began) / 1e9, labels)
            if is_sampled and step == HANDLER and handler is not None:
                handler.finish(ended)
            elif is_sampled:
                _make_span(step, run, began).end(ended)
    finally:
        context.detach(token)
        if own is not None:
            own.end(run.marks[-1][1])


def _own_span(run: Run, around: context.Context) -> Span:
    """The span around the steps of a *run* that nobody has instrumented."""
    return tracer.start_span(f"idempotency {run.attempt.identity.operation}", around, start_time=run.marks[0][1])


def _make_span(step: str, run: Run, began: int) -> Span:
    identity = run.attempt.identity
    attributes = {f"{PREFIX}.operation": identity.operation, f"{PREFIX}.identity": str(identity)}
    links = []
    if step == CLAIM:
        attributes[f"{PREFIX}.decision"] = _decision(run.outcome)
        if isinstance(run.outcome, Replayed):
            links = _links(run.outcome.record.trace)
    return tracer.start_span(f"idempotency {step}", attributes=attributes, links=links, start_time=began)


def _decision(outcome: Executed[Any] | Replayed | Refused | None) -> str:
    match outcome:
        case Executed(record=None):
            return "forgotten"
        case Executed():
            return "executed"
        case Replayed():
            return "replayed"
        case Refused(refusal):
            return refusal.code
        case _:
            return "raised"


def _links(stored: str) -> list[Link]:
    """To the execution whose `traceparent` was *stored*; to nothing if there was none, or another hand wrote it."""
    carrier = {"traceparent": str(stored)}
    found = trace.get_current_span(_propagator.extract(carrier, context.Context())).get_span_context()
    return [Link(found)] if found.is_valid else []


def _of_the_real(method: str) -> Any:
    def call(self: "HandlerSpan", *args: Any, **kwargs: Any) -> Any:
        return getattr(self.real(), method)(*args, **kwargs)

    return call


class HandlerSpan(Span):
    """
    The span of a handler that began at *began*, in the context *around* it. The SDK's own is made when somebody needs
    it: what the handler traces does, as its parent. *own* is the span that is around it for want of another.
    """

    def __init__(self, began: int, around: context.Context, own: Span | None) -> None:
        self.around, self.own = around, own
        self.token: Any = None  # while it is current
        self._began = began
        self._real: Span | None = None
        self._raised = ""

    def real(self) -> Span:
        with _making:
            if self._real is None:
                self._real = tracer.start_span("idempotency handler", self.around, start_time=self._began)
            return self._real

    def get_span_context(self) -> SpanContext:
        return self.real().get_span_context()

    is_recording = _of_the_real("is_recording")
    set_attribute = _of_the_real("set_attribute")
    set_attributes = _of_the_real("set_attributes")
    set_status = _of_the_real("set_status")
    add_event = _of_the_real("add_event")
    add_link = _of_the_real("add_link")
    record_exception = _of_the_real("record_exception")
    update_name = _of_the_real("update_name")
    end = _of_the_real("end")

    def leave(self, error: BaseException | None) -> None:
        """The handler has ended, with *error* or without."""
        if self.token is not None:
            context.detach(self.token)
        if error is not None:
            self._raised = type(error).__name__  # its message may hold what is secret

    def finish(self, ended: int) -> None:
        span = self.real()
        if self._raised:
            span.set_status(Status(StatusCode.ERROR, self._raised))
        span.end(ended)
