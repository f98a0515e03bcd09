"""What a request does not wait for: made in order, by each process for itself, and before it ends."""

import subprocess
import sys
import threading
from pathlib import Path

from django_idempotency.stores import later
from django_idempotency.stores.later import Later

ROOT = Path(__file__).parents[2]
TIMEOUT = 30  # seconds


def test_a_call_that_raises_does_not_stop_the_others(caplog):
    """It is logged."""
    calls, made = Later(), []

    calls.add(made.append, 1)
    calls.add(int, "x")
    calls.add(made.append, 2)

    assert calls.flush(TIMEOUT)
    assert made == [1, 2]
    assert caplog.messages == ["A span, a figure or a copy of an answer is lost"]


def test_what_waits_is_bounded(monkeypatch):
    """A provider that stands still must not fill the memory."""
    monkeypatch.setattr(later, "MAX_WAITING", 2)
    calls, made, begun, go_on = Later(), [], threading.Event(), threading.Event()
    calls.add(begun.set)
    calls.add(go_on.wait)
    assert begun.wait(TIMEOUT)

    for number in range(5):
        calls.add(made.append, number)
    go_on.set()

    while not calls.flush(0.1):  # which has no place while the queue is full
        pass
    assert made[:1] == [0]
    assert len(made) <= 2


def test_a_process_ends_with_its_own_calls():
    """A fork makes its own, and those of its parent once only: in the parent. None waits for a flush."""
    code = """
import os
from django_idempotency.stores.later import later
later(os.write, 1, b"parent ")
if os.fork() == 0:
    later(os.write, 1, b"child ")
else:
    os.wait()
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)

    assert sorted(result.stdout.split()) == ["child", "parent"]
    assert result.returncode == 0, result.stderr
