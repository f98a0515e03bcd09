"""
What Prometheus and OpenTelemetry add to a request, on the database `DATABASE_URL`: whole requests, a protected view.

Each round asks for a first execution and for a replay with each of the observers, in a shuffled order. The time that
the request's thread spends in their calls is taken there: it is a hundredth of the request's, and smaller than what
that differs by. Every request is in a trace that is sampled, and its spans and figures go to providers of the SDK,
which drop them.
"""

import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from benchmarks.calls import Caller, database
from benchmarks.measure import WARM_UP

OBSERVERS = ("Prometheus", "OpenTelemetry", "both")
CASES = ("first", "replay")
NAME = "django_idempotency-later"


def main(rounds: int) -> dict[str, Any]:
    """Microseconds: `added` by observer and case, and `later`, which the other thread takes for each request."""
    with database():
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from django_idempotency.stores import later

        spans, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(spans))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()]))
        tracer, caller = trace.get_tracer("benchmarks"), Caller()
        times: dict[tuple[str, str], list[float]] = {(who, case): [] for who in OBSERVERS for case in CASES}
        order = list(times)
        spent = Spent()
        for number in range(WARM_UP + rounds):
            random.shuffle(order)
            for who, case in order:
                switch(who)
                with tracer.start_as_current_span("request"), spent.counted():
                    getattr(caller, case)()
                if number >= WARM_UP:
                    times[who, case].append(spent.seconds)
            later.flush()  # so that it does not run during the next
            spans.clear()
        return {
            "added": {
                who: {case: statistics.median(times[who, case]) * 1_000_000 for case in CASES} for who in OBSERVERS
            },
            "later": cpu_of(reporter()) / ((WARM_UP + rounds) * len(CASES) * len(OBSERVERS)) * 1_000_000,
        }


def switch(who: str) -> None:
    """Let *who* observe, and nobody else."""
    from django_idempotency.contrib.opentelemetry import telemetry
    from django_idempotency.contrib.prometheus import metrics
    from django_idempotency.engine import announcements, steps

    is_prometheus, is_opentelemetry = who in ("Prometheus", "both"), who in ("OpenTelemetry", "both")
    announcements.observers.clear()
    steps.observers.clear()
    steps.around_handlers.clear()
    if is_prometheus:
        announcements.observers.append(metrics.count)
        steps.observers.append(metrics.measure)
    if is_opentelemetry:
        announcements.observers.append(telemetry.count)
        steps.observers.append(telemetry.report)
        steps.around_handlers.append(telemetry.enter_handler)


class Spent:
    """The seconds that the observers take of one request."""

    def __init__(self) -> None:
        from django_idempotency.engine import steps

        self.seconds = 0.0
        self._observe = steps.shielded  # every call of an observer is made by it

    @contextmanager
    def counted(self) -> Iterator[None]:
        from django_idempotency.engine import steps

        self.seconds = 0.0
        with mock.patch.object(steps, "shielded", self._call):
            yield

    def _call(self, observe: Callable[[Any], Any], seen: object) -> Any:
        begun = time.perf_counter()
        found = self._observe(observe, seen)
        self.seconds += time.perf_counter() - begun
        return found


def reporter() -> int:
    """The thread that makes spans and figures."""
    (found,) = [thread.ident for thread in threading.enumerate() if thread.name == NAME]
    return found or 0


def cpu_of(thread: int) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


if __name__ == "__main__":
    print(json.dumps(main(int(os.environ["ROUNDS"]))))
