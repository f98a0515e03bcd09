"""What a forked process tells, and what is said of one that tells nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_idempotency.testing.processes.forks import Process, ProcessFailed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.race]


def test_a_pool_that_was_used_before_is_named():
    """Its threads are not in the process: whoever waits for them waits for ever."""
    with ThreadPoolExecutor(1, thread_name_prefix="mailer") as pool:
        pool.submit(int).result()
        with (
            Process(lambda line: pool.submit(int).result()) as process,
            pytest.raises(ProcessFailed, match=r"said nothing for 1 s.*mailer_0.*use a pool first in the call"),
        ):
            process.hear(1)


def test_without_threads_none_is_named(monkeypatch):
    """It hangs for another reason."""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread()])
    with (
        Process(lambda line: line.wait()) as process,
        pytest.raises(ProcessFailed, match=r"said nothing for 0 s\.$"),
    ):
        process.hear(0.01)
