"""Both observers on: the registry of Prometheus, and the SDK of OpenTelemetry, whose exporters keep what they get."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from django_idempotency.contrib.opentelemetry import telemetry
from django_idempotency.contrib.prometheus import metrics as prometheus
from django_idempotency.engine import announcements, steps
from django_idempotency.operations.figures import FIGURES, OPERATION, PREFIX, TIMES
from django_idempotency.stores import later
from tests.app.serving import background, browser, client, edge, gate, protect, serve
from tests.asyncs.conftest import asgi
from tests.operations.redis_store import away, keys

__all__ = ["asgi", "away", "background", "browser", "client", "edge", "gate", "keys", "protect", "serve"]

NAMES = {name for name, _help in FIGURES.values()}


@pytest.fixture(scope="session")
def providers() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """The providers of this process: OpenTelemetry lets them be set once."""
    spans, figures = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[figures]))
    return spans, figures


class Observed:
    """What both have seen since the test began."""

    def __init__(self, spans: InMemorySpanExporter, figures: InMemoryMetricReader) -> None:
        self._spans, self._figures = spans, figures
        self._before = self._in_prometheus(), self._in_opentelemetry()

    def figures(self, operation: str) -> dict[str, int]:
        """The figures of *operation* that are not zero; both must show the same. `claim` and `record` were timed."""
        assert later.flush()
        shown = [
            {name: int(number - before[each]) for each in now if each[1] == operation and now[each] > before[each]
             for name, number in [(each[0], now[each])]}
            for before, now in zip(self._before, (self._in_prometheus(), self._in_opentelemetry()), strict=True)
        ]  # fmt: skip
        assert shown[0] == shown[1]
        return shown[0]

    def spans(self) -> list[Any]:
        """The ended spans, in the order in which they began."""
        assert later.flush()
        return sorted(self._spans.get_finished_spans(), key=lambda span: (span.start_time, span.parent is not None))

    def _in_prometheus(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for family in REGISTRY.collect():
            name = family.name.removeprefix(f"{PREFIX}_").removesuffix("_seconds")
            for sample in family.samples:
                if family.name.startswith(PREFIX) and sample.name.endswith(("_total", "_count")):
                    found[name, sample.labels[OPERATION]] = int(sample.value)
        return found

    def _in_opentelemetry(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        data = self._figures.get_metrics_data()
        for metric in [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                name = metric.name.removeprefix(f"{PREFIX}.")
                found[name, point.attributes[OPERATION]] = point.count if name in TIMES else point.value
        return found


@pytest.fixture
def observed(providers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observed]:
    spans, figures = providers
    spans.clear()
    monkeypatch.setattr(announcements, "observers", [*announcements.observers, prometheus.count, telemetry.count])
    monkeypatch.setattr(steps, "observers", [prometheus.measure, telemetry.report])
    monkeypatch.setattr(steps, "around_handlers", [telemetry.enter_handler])
    yield Observed(spans, figures)
    later.flush()


@pytest.fixture
def in_a_trace(observed: Observed) -> Callable[..., Any]:
    """Make a call inside a span, as instrumentation of Django or Celery does. Returns its result, and the span."""

    def call(work: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with trace.get_tracer("tests").start_as_current_span("request") as span:
            return work(*args, **kwargs), span.get_span_context()

    return call
