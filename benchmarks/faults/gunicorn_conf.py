"""gunicorn for the fault suite: it ends with the process that started it, and prints its address."""

import os
import select
import signal
import sys
import threading
import time
from typing import Any

bind = "127.0.0.1:0"
workers = int(os.environ.get("WORKERS", "3"))
worker_class = "sync"
timeout = int(os.environ.get("TIMEOUT", "30"))  # seconds
graceful_timeout = 1  # seconds: a handler that takes longer is killed
preload_app = True  # a new worker is a fork, at once
control_socket_disable = True

if "FAKETIME_TIMESTAMP_FILE" in os.environ:
    # libfaketime takes the monotonic clock of Python's own sleep for the wall clock, and refuses.
    time.sleep = lambda seconds: select.select([], [], [], seconds) and None  # type: ignore[assignment]


def on_starting(server: Any) -> None:
    def stop_at_end_of_input() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGQUIT)

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()


def when_ready(server: Any) -> None:
    host, port = server.LISTENERS[0].sock.getsockname()
    sys.stdout.write(f"{host}:{port}\n")
    sys.stdout.flush()
