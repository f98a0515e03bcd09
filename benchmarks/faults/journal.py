"""What a client writes down of each attempt, for the checker: see `checker.py` for the form."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """
    A log that many threads and processes append to, each line in one write.

    A fork writes into its parent's log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def answer(self, key: str, status: int | None, body: bytes = b"") -> dict[str, Any]:
        """Note the answer to an attempt, or with None that there was none. Returns the line."""
        line: dict[str, Any] = {"key": key, "status": status, "at": time.time()}
        if status is not None:
            line["digest"] = hashlib.sha256(body).hexdigest()
            try:
                said = json.loads(body)
            except ValueError:
                said = {}  # an error page
            line |= {"effect": said.get("id"), "code": said.get("code")}
            line |= {name: said[name] for name in ("charge", "shipment") if name in said}
        self._write(line)
        return line

    def expired(self, key: str) -> None:
        """Note that the record of *key* was made to expire."""
        self._write({"key": key, "expired": True, "at": time.time()})

    def failed_over(self) -> None:
        """Note that what has been answered so far may be lost."""
        self._write({"failed over": True, "at": time.time()})

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
