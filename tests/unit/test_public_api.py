"""What users import, and what that import brings with it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import django_idempotency

ROOT = Path(__file__).parents[2]


def modules_after(code: str, **environment: str) -> set[str]:
    """The modules of ours and of third parties that a fresh interpreter has loaded after *code*."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"} | environment
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_roots_names():
    """The root exports what protected code needs, and nothing else."""
    assert django_idempotency.__all__ == ["Policy", "current_operation", "idempotency_exempt", "idempotent", "once"]


def test_exported_names_exist():
    """Each `__all__` of the package can be imported whole."""
    for name in (
        "",
        ".client",
        ".client.httpx",
        ".client.requests",
        ".exceptions",
        ".fingerprints",
        ".keys",
        ".moving",
        ".outcomes",
        ".rest_framework",
    ):
        module = importlib.import_module(f"django_idempotency{name}")
        assert all(hasattr(module, exported) for exported in module.__all__)


def test_the_package_is_typed():
    """Type checkers read it."""
    assert (Path(django_idempotency.__file__).parent / "py.typed").exists()


def test_the_root_needs_no_settings():
    """A client in another process imports it, too; no model and nothing of DRF or Redis comes along."""
    loaded = modules_after(
        "from django_idempotency import Policy, current_operation, idempotency_exempt, idempotent, once\n"
        "from django_idempotency import exceptions, fingerprints, keys\n"
        "idempotent(required=True)(lambda request: None)\n"
        "once('event', key=str)(lambda event: None)\n"
        "assert current_operation() is None"
    )

    assert "django_idempotency.models" not in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("rest_framework", "django_redis", "redis", "psycopg")}


def test_setting_django_up_loads_no_framework_and_no_driver():
    """DRF's edge is loaded by a DRF view, a database's statements by its first request."""
    loaded = modules_after(
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_idempotency'], DATABASES={})\n"
        "import django; django.setup()"
    )

    assert "django_idempotency.checks.views" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("rest_framework", "django_redis", "redis")}
    assert not {f"django_idempotency.stores.database.{name}" for name in ("postgresql", "mysql", "sqlite")} & loaded
    assert "django_idempotency.adapters.drf" not in loaded


def test_the_client_needs_no_settings_and_loads_no_server():
    """A program that only calls an API imports no view, no database, and no HTTP library that it does not use."""
    loaded = modules_after("import django_idempotency.client, django_idempotency.client.httpx")

    server = ("rest_framework", "django.db", "django.http", "django.views", "django_redis", "requests")
    assert not {name for name in loaded if name.startswith(server)}
    ours = {name.split(".")[1] for name in loaded if name.startswith("django_idempotency.")}
    assert ours == {"client", "core", "exceptions"}
