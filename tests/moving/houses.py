"""The packages that a project moves from, each in an environment of its own, installed from PyPI."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from tests.lab.caches import REDIS_URL
from tests.servers import ROOT

COMMON = (
    "dj-database-url>=2.3",
    "djangorestframework>=3.16",
    "psycopg[binary]>=3.2",
    "pymysql>=1.1",
    "django-redis>=6",
)
REQUIREMENTS = {
    "drf-idempotency": "drf-idempotency[redis]==1.0.0",
    "drf-idempotencykey": "drf-idempotencykey==0.2.0",
    "django-idempotency-key": "django-idempotency-key==1.3.0",
    "djangorestframework-idempotency-key": "djangorestframework-idempotency-key==1.0.3",
    "idemkit": "idemkit[postgres,redis]==1.0.2",
}
TABLES = {
    "drf-idempotency": ("drf_idempotency", "drf_idempotency_idempotencyrecord"),
    "drf-idempotencykey": ("drf_idempotencykey", "drf_idempotencykey_idempotencykey"),
    "djangorestframework-idempotency-key": ("rest_framework_idempotency_key", "idempotency_key"),
    "idemkit": ("", "idemkit_records"),
}
PATIENCE = 120  # seconds, for one start of the old project


def python(package: str) -> Path:
    """The Python of the environment of *package*, made if it is not there. Without PyPI the test is skipped."""
    place = ROOT / os.environ.get("RIVALS", ".venv-rivals") / f"moving-{package}"
    wanted = "\n".join([REQUIREMENTS[package], *COMMON])
    stamp = place / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        for command in (
            [sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)],  # ours installs into it, too
            [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet",
             REQUIREMENTS[package], *COMMON],
        ):  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                end = pytest.fail if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0") else pytest.skip
                end(f"{package} cannot be installed: {done.stderr.strip()[-300:]}")
        stamp.write_text(wanted)
    return place / "bin" / "python"


class OldProject:
    """A project under *package*, whose database is the test's, and whose Redis keys begin with *prefix*."""

    def __init__(self, package: str, *, redis: bool = False, prefix: str = "") -> None:
        self.package = package
        self.python = python(package)
        self.redis = REDIS_URL if redis else None
        self.prefix = prefix

    def send(self, *requests: tuple[str, dict[str, str]], dies: bool = False) -> list[dict[str, Any]]:
        """Send *requests* (a body and headers), one after the other. The last one *dies* if it says so."""
        whole = connection.settings_dict
        database = {name: whole[name] for name in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")}
        place = f"{whole['USER']}:{whole['PASSWORD']}@{whole['HOST']}:{whole['PORT'] or 5432}"
        done = subprocess.run(
            [self.python, str(Path(__file__).with_name("old.py"))],
            input=json.dumps(
                {
                    "package": self.package,
                    "database": database | {"NAME": str(whole["NAME"])},
                    "url": f"postgresql://{place}/{whole['NAME']}",
                    "redis": self.redis,
                    "prefix": self.prefix,
                    "requests": requests,
                }
            ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if dies:
            assert done.returncode == -9, done.stderr
            return []
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        """Take away what the package has left in the database of the tests."""
        app, table = TABLES.get(self.package, ("", ""))
        with connection.cursor() as cursor:
            if table:
                cursor.execute(f"DROP TABLE IF EXISTS {table}")
            cursor.execute("DELETE FROM django_migrations WHERE app = %s", [app])
