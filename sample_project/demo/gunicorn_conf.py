"""
gunicorn's configuration for the demo: how it says where it listens, and how one charge is held in the middle.

The processes talk through files in `DEMO_DIRECTORY`, which appear by one atomic rename:
`address`, `worker-<pid>` for a worker that is ready, `armed` -> `held-<pid>` for one that stands still, `paying-<pid>`
for one that is at a card payment.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIRECTORY = Path(os.environ["DEMO_DIRECTORY"])
HOLD_AT_MOST = 20  # seconds; less than gunicorn's timeout, which would kill the worker by itself

bind = "127.0.0.1:0"
workers = 4
worker_class = "sync"
timeout = 60  # seconds
graceful_timeout = 5  # seconds
control_socket_disable = True


def announce(name: str, text: str = "") -> None:
    """Create the file *name* with its whole *text* at once."""
    partial = DIRECTORY / f".{name}.{os.getpid()}"
    partial.write_text(text)
    partial.rename(DIRECTORY / name)


def on_starting(server: Any) -> None:
    """Stop when the demo ends, for any reason: that closes the pipe that is our standard input."""

    def stop_at_end_of_input() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()


def when_ready(server: Any) -> None:
    host, port = server.LISTENERS[0].sock.getsockname()
    announce("address", f"{host}:{port}")


def post_worker_init(worker: Any) -> None:
    from django.db import connection

    # A sync worker serves every request in this thread, so this is the connection that they all use.
    connection.execute_wrappers.append(hold_after_charge)
    announce(f"worker-{os.getpid()}")


def child_exit(server: Any, worker: Any) -> None:
    for name in ("worker", "paying"):
        (DIRECTORY / f"{name}-{worker.pid}").unlink(missing_ok=True)


def pre_request(worker: Any, request: Any) -> None:
    if request.path.endswith(("/card-payments/", "/top-ups/")):
        announce(f"paying-{os.getpid()}")


def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
    (DIRECTORY / f"paying-{os.getpid()}").unlink(missing_ok=True)


def hold_after_charge(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
    """
    Run a statement; if it has inserted a charge and the demo has armed the trap, stand still behind it.

    The money has been taken and the charge is written, and neither is committed: the middle of the request.
    It goes on when the demo removes the file, or takes itself away.
    """
    result = execute(sql, params, many, context)
    table = context["connection"].ops.quote_name("payments_charge")
    if sql.startswith(f"INSERT INTO {table} "):
        held = DIRECTORY / f"held-{os.getpid()}"
        try:
            (DIRECTORY / "armed").rename(held)  # only one of several workers succeeds
        except FileNotFoundError:
            return result
        arbiter, deadline = os.getppid(), time.monotonic() + HOLD_AT_MOST
        while held.exists() and os.getppid() == arbiter and time.monotonic() < deadline:
            time.sleep(0.005)
    return result
