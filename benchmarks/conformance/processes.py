"""A contender's environment, and its server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.conformance.contenders import APPS, Contender

PATIENCE = 60  # seconds for a server to start


class Failed(Exception):
    """A contender cannot be installed, started or examined; the message says why."""


def environment(contender: Contender, folder: Path) -> Path:
    """The contender's own environment below *folder*, made if it is not there. Raises `Failed`."""
    place = folder / contender.package.replace("/", "-")
    stamp, wanted = place / "requirements.txt", "\n".join(contender.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return place
    print(f"installing {contender.package} into {place}", flush=True)
    if contender.is_python:
        call(sys.executable, "-m", "venv", "--clear", str(place))
        pip = (str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        call(*pip, *contender.requirements)
    else:
        if shutil.which("npm") is None:
            raise Failed("npm is not installed.")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "package.json").write_text('{"private": true}')
        call("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *contender.requirements, place=place)
    stamp.write_text(wanted)
    return place


def call(*command: str, place: Path | None = None) -> None:
    done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip().split("\n")[-1] or f"{command[0]} ended with {done.returncode}")


def versions(contender: Contender, place: Path) -> dict[str, str]:
    """What was installed: the package, and its framework."""
    names = (contender.package, contender.framework)
    if not contender.is_python:
        packages = {name: place / "node_modules" / name / "package.json" for name in names}
        return {name: json.loads(path.read_text())["version"] for name, path in packages.items()}
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    done = subprocess.run([place / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@contextmanager
def serving(contender: Contender, place: Path, log: Path) -> Iterator[str]:
    """The URL of the contender's running server. Raises `Failed`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["node", str(APPS / contender.app)]
    if contender.is_python:
        command = [str(place / "bin" / "python"), "-m", "uvicorn", f"{Path(contender.app).stem}:app"]
        command += ["--app-dir", str(APPS), "--port", str(port), "--log-level", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=place,
            env={
                **os.environ,
                "CONTENDER": contender.package,
                "PORT": str(port),
                "NODE_PATH": str(place / "node_modules"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise Failed(f"It did not start: {log.read_text(errors='replace').strip().rpartition(chr(10))[2]}")
