"""The benchmarks' project under uvicorn: `python -m benchmarks.asgi PORT`. It ends at the end of its input."""

import os
import signal
import sys
import threading

import uvicorn
from django.core.asgi import get_asgi_application

from benchmarks.project import configure


def stop_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    configure()
    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    uvicorn.run(get_asgi_application(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="off")
