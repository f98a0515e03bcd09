"""Tenants in schemas, as django-tenants keeps them: each one's records and counts are its own, and commands see all."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from django.db import connection

from tests.app.serving import VENDOR

pytestmark = [
    pytest.mark.skipif(VENDOR != "postgresql", reason="schemas as PostgreSQL has them"),
    pytest.mark.skipif(find_spec("django_tenants") is None, reason="django-tenants is not installed"),
    pytest.mark.django_db(transaction=True),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def seen(request):
    """What `python -m tests.operations.tenants` reports with this layout, in a database of its own."""
    name = f"{connection.settings_dict['NAME']}_tenants"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {name}")
    variables = {
        "DJANGO_SETTINGS_MODULE": "tests.operations.tenants.settings",
        "TENANTS_DATABASE": name,
        "LAYOUT": request.param,
    }
    try:
        process = subprocess.run(
            [sys.executable, "-m", "tests.operations.tenants"],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        yield json.loads(process.stdout.splitlines()[-1])
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def without_seconds(text):
    return re.sub(r" in \d+\.\d s", "", text)


@pytest.mark.parametrize("seen", ["tenants"], indirect=True)
def test_a_table_for_each_tenant(seen):
    """`TENANT_APPS`: written from the public schema, counts land in the schema of the decision; commands see all."""
    assert seen["flushed"]
    assert seen["counts"] == {"tenant_a": [["pay", 1, 2]], "tenant_b": [["pay", 1, 0]]}
    assert seen["samples"] == {"tenant_a": [1], "tenant_b": [1]}
    assert seen["shown"] == [["tenant_a", "key-1"], ["tenant_b", "key-1"]]
    assert "Record 1 of 1, in database 'default', schema 'tenant_b'" in seen["shown inside"]
    assert seen["unsettled"] == 2
    assert "name one with --store, --database or --schema" in seen["ambiguous"]
    assert "in database 'default', schema 'tenant_b'" in seen["freed"]
    assert seen["left"] == {"tenant_a": 1, "tenant_b": 0}
    assert "'nowhere' of database 'default' has no table" in seen["unknown schema"]
    assert "tenant_a, tenant_b" in seen["unknown schema"]
    assert seen["dry run"] == (
        "Would delete 1 expired record from 'default', schema 'tenant_a'.\n"
        "Would delete 1 expired record from 'default', schema 'tenant_b'.\n"
    )
    assert seen["purged inside"] == "Would delete 1 expired record from 'default', schema 'tenant_a'.\n"
    assert without_seconds(seen["purged"]).count("Deleted ") == 2
    assert seen["left at last"] == {"tenant_a": 1, "tenant_b": 0}  # an unknown outcome
    assert seen["resumed"] == (
        "Resumed 1 run in 'default', schema 'tenant_a': 1 finished.\n"
        "Resumed 1 run in 'default', schema 'tenant_b': 1 finished.\n"
    )
    assert seen["joined"] == {"tenant_a": ["joined"], "tenant_b": ["joined"]}
    assert seen["tenants"] == ["tenant_a", "tenant_b"]


@pytest.mark.parametrize("seen", ["shared"], indirect=True)
def test_one_table_for_all(seen):
    """`SHARED_APPS`: one table, in which a key is new once for all tenants, unless the option `scope` names them."""
    assert seen["counts"]["tenant_a"] == seen["counts"]["tenant_b"] == [["pay", 1, 3]]
    assert seen["shown"] == [["public", "key-1"]]
    assert seen["unsettled"] == 1
    assert "in database 'default', schema 'public'" in seen["ambiguous"]
    assert without_seconds(seen["purged"]) == "Deleted 1 expired record from 'default', schema 'public'.\n"
    assert seen["resumed"] == "Resumed 2 runs in 'default', schema 'public': 2 finished.\n"
    assert seen["joined"] == {"tenant_a": ["joined"], "tenant_b": ["joined"]}
    assert seen["tenants"] == ["tenant_a", "tenant_b"]
