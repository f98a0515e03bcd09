"""The demo without protection. As its readers run it, `make demo` is a step of CI, which fails if a check does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

REPOSITORY = Path(__file__).parents[2]


pytestmark = [
    pytest.mark.kill,
    pytest.mark.slow,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="The demo chooses its servers itself: once is enough."),
]


def run_demo(**environment):
    """
    The demo's exit code and what it printed. On SQLite and on Valkey from its wheel, as on a machine that has neither
    server: it makes its own file, and starts its own Valkey.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    done = subprocess.run(
        [sys.executable, "-m", "sample_project.demo"],
        cwd=REPOSITORY,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout


def test_the_demo_tells_when_it_is_not():
    """Without protection every step that repeats something fails, and so does the run."""
    code, output = run_demo(DJANGO_SETTINGS_MODULE="tests.sample.unprotected_settings")

    assert code == 1, output
    verdict = output.strip().splitlines()[-1]
    assert verdict.startswith("NOT AS PROMISED on SQLite")
    for step in (2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14):
        assert f"step {step}, " in verdict
