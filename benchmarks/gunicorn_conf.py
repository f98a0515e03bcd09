"""gunicorn for the benchmark of many clients. It ends with the process that started it."""

import os
import signal
import sys
import threading
from typing import Any

bind = "127.0.0.1:0"
workers = 2
worker_class = "gthread"
threads = 4
keepalive = 30  # seconds
graceful_timeout = 2  # seconds
control_socket_disable = True


def on_starting(server: Any) -> None:
    def stop_at_end_of_input() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()


def when_ready(server: Any) -> None:
    host, port = server.LISTENERS[0].sock.getsockname()
    print(f"{host}:{port}", flush=True)
