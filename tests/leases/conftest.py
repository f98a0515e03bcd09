"""A keeper of the test's own, whose thread ends with the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from django_idempotency.engine.renewal import LeaseKeeper
from tests.leases.recorder import TIMEOUT, Recorder


def end(keeper: LeaseKeeper) -> None:
    """End the keeper's thread, as nothing but a test does: what is no `Exception` reaches its outermost frame."""
    thread = keeper._thread
    if thread is not None and thread.is_alive():

        def leave(verb: str, key: str) -> None:
            raise SystemExit

        hook = threading.excepthook
        threading.excepthook = lambda args: None  # pytest's would report it
        try:
            keeper.hold(Recorder(leave).lease("end", 0.0))
            thread.join(TIMEOUT)
        finally:
            threading.excepthook = hook
        assert not thread.is_alive()
        keeper._held = {lease for lease in keeper._held if lease.seconds}


@contextmanager
def without_threads() -> Iterator[None]:
    """Inside the block the system has no thread left to give."""
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        yield


@pytest.fixture
def keeper() -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper()
    yield keeper
    keeper._held.clear()
    keeper._endings.waiting.clear()
    end(keeper)
