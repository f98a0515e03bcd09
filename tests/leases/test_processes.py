"""A forked process has leases and a thread of its own; one that ends waits for nobody."""

import os
import subprocess
import sys
import threading

from django_idempotency.engine import renewal
from django_idempotency.testing.processes.forks import Process
from tests.leases.recorder import TIMEOUT, Recorder


def _forked():
    """In the child: what it has of the parent's leases, and whether its own are renewed."""
    keeper = renewal.keeper
    inherited = len(keeper._held), keeper._thread is not None
    store = Recorder()
    keeper.hold(store.lease("child's", 0.05))
    calls = store.calls.wait(2, "child's")
    return inherited, {call.thread for call in calls} == {keeper._thread.ident}


def test_a_forked_process_begins_anew(monkeypatch):
    """None of its parent's leases are its own, and no thread survives a fork: it starts one with its first lease."""
    store = Recorder()
    lease = store.lease("parent's", 0.05)
    renewal.keeper.hold(lease)
    try:
        store.calls.wait(1, "parent's")
        with Process(lambda line: _forked()) as child:
            assert child.result() == ((0, False), True)
        store.calls.more(2, "parent's")  # the parent goes on
    finally:
        renewal.keeper.drop(lease)


def test_a_fork_while_another_thread_holds_or_drops_a_lease():
    """What is locked in the parent at that moment is free in the child."""
    locked, go_on = threading.Event(), threading.Event()

    def keep_locked():
        with renewal.keeper._changed:
            locked.set()
            go_on.wait(TIMEOUT)

    thread = threading.Thread(target=keep_locked)
    thread.start()
    assert locked.wait(TIMEOUT)
    try:
        with Process(lambda line: _forked()) as child:
            assert child.result() == ((0, False), True)
    finally:
        go_on.set()
        thread.join(TIMEOUT)


PROGRAM = """
from django.conf import settings
import django

settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django_idempotency"])
django.setup()

from django_idempotency.engine.renewal import keeper
from tests.leases.recorder import Recorder

store = Recorder()
for number in range(50):
    keeper.hold(store.lease(str(number), 0.003))
store.calls.wait(100)
"""


def test_a_process_ends_while_its_leases_are_renewed():
    """At once and in silence: whoever comes with their keys is told when they have run out."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_keeper_that_is_not_used_has_no_lock_yet():
    """Neither when it is imported nor after a fork: a worker may patch `threading` for gevent after both."""
    keeper = renewal.LeaseKeeper()
    assert not keeper._made
    keeper.drop(Recorder().lease("a", 1))
    assert keeper._made

    keeper.reset()

    assert not keeper._made
