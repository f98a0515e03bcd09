"""
The metrics, and the observers that fill them, `later`.

With `PROMETHEUS_MULTIPROC_DIR` the library keeps them in files of each process, and adds them up when it is asked.
"""

from functools import partial

from django.core.exceptions import ImproperlyConfigured

from django_idempotency.engine.announcements import Announcement
from django_idempotency.engine.steps import Run
from django_idempotency.operations.figures import BUCKETS, FIGURES, OPERATION, PREFIX, TIMES, ByOperation, figure_of
from django_idempotency.stores.later import later

try:
    from prometheus_client import Counter, Histogram
except ImportError as error:
    raise ImproperlyConfigured(
        '"django_idempotency.contrib.prometheus" in INSTALLED_APPS needs prometheus_client:'
        ' pip install "django-idempotency[prometheus]"'
    ) from error

_counters = {figure: Counter(f"{PREFIX}_{name}", text, [OPERATION]) for figure, (name, text) in FIGURES.items()}
_histograms = {
    step: Histogram(f"{PREFIX}_{step}_seconds", text, [OPERATION], buckets=BUCKETS) for step, text in TIMES.items()
}
# All of an operation's figures begin with its first decision, at zero: Prometheus sees no increase without a beginning.
_of_operation = ByOperation(lambda name: {figure: counter.labels(name) for figure, counter in _counters.items()})
_times = ByOperation(lambda name: {step: histogram.labels(name) for step, histogram in _histograms.items()})


def count(announcement: Announcement) -> None:
    """Count the decision that *announcement* reports: an observer of `announcements`."""
    announcement.when_final(partial(later, _count, announcement))


def _count(announcement: Announcement) -> None:
    _of_operation[announcement.identity.operation][figure_of(announcement.decision)].inc()


def measure(run: Run) -> None:
    """Take the times of a *run* that is over: an observer of `steps`."""
    later(_measure, run)


def _measure(run: Run) -> None:
    times = _times[run.attempt.identity.operation]
    for step, began, ended in run.steps():
        if step in times:
            times[step].observe((ended - began) / 1e9)
