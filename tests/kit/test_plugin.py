"""The plugin brings two fixtures, and nothing else to anybody."""

import importlib.metadata
import os
import subprocess
import sys

import pytest
from _pytest.assertion.rewrite import AssertionRewriter

import django_idempotency
from django_idempotency import testing

PLUGIN = "django_idempotency.testing.plugin"


def run(folder, tests, *arguments, settings=False):
    """pytest in a project of its own."""
    (folder / "test_project.py").write_text(tests)
    if settings:
        (folder / "project_settings.py").write_text(
            'SECRET_KEY = "kit"\n'
            'INSTALLED_APPS = ["django_idempotency"]\n'
            'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}\n'
        )
        arguments = ("--ds", "project_settings", *arguments)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    result = subprocess.run(
        command, cwd=folder, env={**environment, "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return result.returncode, result.stdout + result.stderr


def test_pytest_finds_it_by_its_entry_point():
    """An installed package needs no line in a conftest.py."""
    (point,) = importlib.metadata.entry_points(group="pytest11", name="django_idempotency")

    assert point.value == PLUGIN


def test_the_fixtures_serve_a_test(tmp_path):
    """In a project of its own, with pytest-django."""
    tests = """
import pytest

@pytest.mark.django_db
def test_kit(idempotency, idempotency_key):
    assert not idempotency.snapshot().changes(idempotency.snapshot())
    assert len(idempotency_key) == 36
    with pytest.raises(LookupError):
        idempotency.expire(idempotency_key)
"""
    code, output = run(tmp_path, tests, settings=True)

    assert code == 0, output
    assert "1 passed" in output


def test_a_project_that_is_not_djangos_is_left_alone(tmp_path):
    """Its tests run; no setting is read, and neither models nor the kit are loaded."""
    tests = """
import sys

def test_alone(idempotency_key):
    assert "django_idempotency.models" not in sys.modules
    assert "django_idempotency.testing.compare" not in sys.modules
"""
    code, output = run(tmp_path, tests, "-p", "no:django")

    assert code == 0, output


def test_pytest_may_be_started_where_the_package_is_loaded():
    """By a project's own test runner. pytest would rewrite a plugin's package, and warn where it comes too late."""
    assert AssertionRewriter.is_rewrite_disabled(django_idempotency.__doc__)


def test_it_registers_fixtures_only():
    """No hook, no option, no marker."""
    from django_idempotency.testing import plugin

    assert not [name for name in vars(plugin) if name.startswith("pytest_")]


def test_the_names_of_the_kit_are_there():
    """Each can be had, is told by dir(), and another is an AttributeError."""
    for name in testing.__all__:
        assert getattr(testing, name) is not None
        assert name in dir(testing)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing  # noqa: B018


def test_the_fixtures(idempotency, idempotency_key):
    """Here, too."""
    assert idempotency is testing
    assert len(idempotency_key) == 36
