"""Rules that the package's own source keeps."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_idempotency"
MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def trees():
    """Each module's path below the package, and its syntax tree."""
    return [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())) for path in MODULES]


# What a project imports, and the names that Django gives. Everything else lives in a room.
TOP_LEVEL = {
    *(
        "__init__",
        "encryption",
        "exceptions",
        "fingerprints",
        "keys",
        "middleware",
        "moving",
        "outcomes",
    ),  # one imports
    *("probes", "profiles", "receipts", "renderers", "rest_framework"),
    *("adapters", "client", "conformance", "contrib", "core", "engine", "operations", "protection"),  # rooms
    *("stores", "testing"),
    *("admin", "apps", "checks", "conf", "fields", "management", "migrations", "models", "signals"),  # Django's names
    *("static", "templates", "templatetags", "py.typed"),
}


def test_the_top_level_holds_what_a_project_imports_and_the_rooms():
    """A new module goes into a room."""
    entries = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}

    assert entries <= TOP_LEVEL


@pytest.mark.parametrize(
    "room", ["adapters", "checks", "client", "conformance", "core", "engine", "operations", "protection", "stores"]
)
def test_each_room_states_its_rule(room):
    """At the top of its `__init__`, in at most ten lines; the table of the checks' ids comes after them."""
    rule = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())).split("\n\nE001")[0]

    assert 1 <= len(rule.splitlines()) <= 10


def test_imports_keep_to_their_layers():
    """The contracts of pyproject.toml: no import goes up, the engine and the adapters do not know each other."""
    pytest.importorskip("importlinter")
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_one_place_opens_a_transaction():
    """`atomic`, `commit`, `rollback`, `set_autocommit` and savepoints are called in engine/transactions.py alone."""
    opening = {"atomic", "commit", "rollback", "set_autocommit", "savepoint", "savepoint_commit", "savepoint_rollback"}
    found = {
        (name, node.attr)
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in opening
    }

    ended_early = ("stores/database/innodb.py", "rollback")  # the driver's, after a claim that failed
    assert found == {("engine/transactions.py", "atomic"), ended_early}


def test_nothing_is_pickled():
    """Stored bytes never pass through pickle, nor through what unpickles. Another package's are taken apart."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    imported = set()
    for name, tree in trees():
        if name == "operations/houses/pickles.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])

    assert not imported & forbidden


def test_the_core_is_pure():
    """No Django and no clock below core/, and nothing of the network or the file system."""
    allowed = {
        "collections",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "enum",
        "hashlib",
        "inspect",
        "json",
        "math",
        "re",
        "types",
        "typing",
        "uuid",
    }
    allowed |= {"http", "urllib"}  # a table of statuses, and a parser
    for name, tree in trees():
        if name.startswith("core/"):
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").split(".")[0] in allowed | {"django_idempotency"}, name
                elif isinstance(node, ast.Import):
                    assert {alias.name for alias in node.names} <= allowed, name


def test_the_root_is_not_imported_from_inside():
    """Django imports the root before models are ready: inside, a name is imported from the module that owns it."""
    public = {"Policy", "current_operation", "idempotency_exempt", "idempotent", "once"}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "django_idempotency":
                assert not public & {alias.name for alias in node.names}, name


def test_modules_and_classes_say_what_they_are_for():
    """Each module and each public class has a docstring."""
    silent = []
    for name, tree in trees():
        if name.startswith("migrations/") or name == "apps.py":
            continue
        for node in [tree, *ast.walk(tree)]:
            if isinstance(node, ast.Module) and not ast.get_docstring(node):
                silent.append(name)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{name}: {node.name}")

    without = (": Media", ": Meta", ": RecordQuerySet", ": IdempotencyMixin")  # the last one's would be every view's
    assert [entry for entry in silent if not entry.endswith(without)] == []
