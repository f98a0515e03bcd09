"""Type checkers accept correct user code and find the mistakes in wrong user code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_mypy_reads_the_api_as_users_write_it():
    """In strict mode, with django-stubs: views keep their types, options are typed, and each mistake is found."""
    pytest.importorskip("mypy")
    pytest.importorskip("mypy_django_plugin")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing/api.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_pyright_reads_it_too():
    """Pyright, which has no plugin for Django, agrees. The mistakes are marked for both checkers."""
    pytest.importorskip("basedpyright")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "--pythonpath",
            sys.executable,
            "--level",
            "error",
            "--project",
            "tests/typing",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout
