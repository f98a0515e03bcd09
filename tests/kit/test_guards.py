"""`guard` sees what no transaction covers while it happens, and where."""

import contextlib
import logging
import socket
import subprocess
import sys
import tempfile
import threading
from functools import partial

import pytest
from django.core.cache.backends.locmem import LocMemCache
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection, transaction

from django_idempotency.testing.observe.guards import FOREIGN, guard
from tests.app.models import Payment

pytestmark = pytest.mark.django_db(transaction=True)


def send_mail() -> None:
    EmailBackend().send_messages([EmailMessage("Paid", "", "shop@example.com", ["payer@example.com"])])


@pytest.fixture
def server():
    """The address of a server that somebody else runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def connect(address: tuple[str, int]) -> None:
    socket.create_connection(address).close()


def test_each_kind_is_seen(server, tmp_path):
    """What it was, and the line of the project's code that did it."""
    ledger = tmp_path / "ledger.txt"
    with guard() as seen:
        send_mail()
        connect(server)
        ledger.write_text("new")
        with open(ledger, "x" if not ledger.exists() else "a") as file:
            file.write("more")
        with open(tmp_path / "another.txt", "x"):
            pass
        subprocess.run([sys.executable, "-c", ""], check=True)
        thread = threading.Thread(target=int, name="worker")
        thread.start()
        thread.join()

    told = [(effect.kind, effect.what) for effect in seen.effects]
    assert told == [
        ("e-mail", "'Paid' to payer@example.com"),
        ("connection", f"to 127.0.0.1:{server[1]}"),
        ("file", str(ledger)),
        ("file", str(ledger)),
        ("new file", str(tmp_path / "another.txt")),
        ("process", sys.executable),
        ("thread", "worker"),
    ]
    assert all(effect.where.startswith("tests/kit/test_guards.py:") for effect in seen.effects)
    assert seen.kinds()["file"] == 2


def test_a_file_of_a_log_is_nobodys_effect(tmp_path):
    """A handler with `delay` opens it for its first line."""
    handler = logging.FileHandler(tmp_path / "shop.log", delay=True)
    log = logging.getLogger("tests.kit.guards")
    log.addHandler(handler)
    try:
        with guard() as seen:
            log.warning("paid")
    finally:
        log.removeHandler(handler)
        handler.close()

    assert (tmp_path / "shop.log").read_text() == "paid\n"
    assert seen.effects == []


def test_threads_of_the_call_are_kept():
    """So that they can be waited for: none that was there, and none of a database's pool."""
    done = threading.Event()
    waiting, pools = (threading.Thread(target=done.wait, daemon=True) for _ in range(2))
    of_the_database = {"__name__": "django.db.backends.postgresql.base", "pools": pools}
    with guard() as seen:
        waiting.start()
        exec("pools.start()", of_the_database)  # noqa: S102 in a module of that name
    done.set()

    assert seen.threads == [waiting]
    assert [effect.what for effect in seen.effects] == [waiting.name]


def test_what_a_layer_only_calls_is_the_projects(server):
    """A hook after COMMIT, and a value that a cache asks for: the layer is on the way, but it is not its work."""
    with guard() as seen:
        with transaction.atomic():
            transaction.on_commit(partial(connect, server))
            transaction.on_commit(threading.Thread(target=int, name="worker").start)
        transaction.on_commit(partial(connect, server))
        LocMemCache("kit", {}).get_or_set("rate", partial(connect, server))

    assert [effect.kind for effect in seen.effects] == ["connection", "thread", "connection", "connection"]


def test_a_transaction_is_told_from_none(server):
    """Only what happens inside a transaction is one of those that a rollback would leave behind."""
    with guard() as seen:
        connect(server)
        with transaction.atomic():
            send_mail()
        with transaction.atomic(), contextlib.suppress(ZeroDivisionError), transaction.atomic():
            connect(server)
            raise ZeroDivisionError

    assert [(effect.kind, effect.inside) for effect in seen.effects] == [
        ("connection", False),
        ("e-mail", True),
        ("connection", True),
    ]
    assert [effect.kind for effect in seen.inside] == ["e-mail", "connection"]


@pytest.mark.django_db(transaction=False)
def test_the_tests_own_transaction_does_not_count():
    """A `TestCase` holds a transaction all the time: what counts is one that begins in the block."""
    with guard() as seen:
        send_mail()
        with transaction.atomic():
            send_mail()

    assert [effect.inside for effect in seen.effects] == [False, True]


def test_databases_and_caches_are_the_projects_own(server, settings):
    """A connection to them is not told, whether Django opens it or a library to the address in the settings."""
    port = server[1]
    settings.CACHES = {
        "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://localhost:{port}/0"}
    }
    connection.close()

    with guard() as seen:
        assert not Payment.objects.exists()
        connect(server)

    assert seen.effects == []


def test_what_nobody_finds_again_is_not_told():
    """Temporary files are, like uploads, removed by who made them."""
    with guard() as seen:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"upload")
        with tempfile.TemporaryFile() as file:
            file.write(b"upload")

    assert [effect for effect in seen.effects if effect.kind in FOREIGN] == []


def test_a_listener_hears_of_it_before_and_after():
    """Before it happens, in the thread that does it; after it only of e-mails."""
    heard = []
    with guard(
        before=lambda effect: heard.append(("before", effect.kind)),
        after=lambda effect: heard.append(("after", effect.kind)),
    ):
        send_mail()

    assert heard == [("before", "e-mail"), ("after", "e-mail")]


def test_outside_the_block_nothing_is_seen_or_changed(server):
    """The guard leaves the backends as they were."""
    before = EmailBackend.send_messages
    with guard() as seen:
        pass
    send_mail()
    connect(server)

    assert seen.effects == []
    assert EmailBackend.send_messages is before
