"""
Run the Python blocks of one page, in order, as one project: `python -m tests.docs.project docs/explanation/law.md`.

The project is small, on SQLite in a temporary folder, with the app `shop` that the pages import from. System checks run
on what the page defines, and a warning is an error; each view in its `urlpatterns` gets the same request twice; its
test cases run.
"""

import ast
import importlib
import sys
import tempfile
import types
import unittest
from functools import partial
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.urls import URLPattern, URLResolver, path

from tests.docs.pages import ROOT, Block, blocks

HERE = Path(__file__).resolve().parent


def main(page: Path, folder: Path) -> None:
    sys.path.insert(0, str(HERE))  # for `shop`
    module = types.ModuleType("page")
    sys.modules["page"] = module
    found = list(blocks(page))
    configure(folder, [block for block in found if block.kind == "settings"])
    run = {"complete": complete, "raises": raises, "fragment": fragment, "settings": lambda *args: None}
    for block in found:
        run[block.kind](block, module)
    if not hasattr(module, "urlpatterns"):  # a page that shows a view and leaves its route to the reader
        module.urlpatterns = [path(f"{name}/", view) for name, view in vars(module).items() if hasattr(view, "cls")]
    call_command("check", fail_level="WARNING")
    tested = run_test_cases(module)
    for route in routes(module.urlpatterns):
        drive(route, tested=tested)
    counts = {kind: sum(block.kind == kind for block in found) for kind in run}
    print(f"{page.name}: {', '.join(f'{count} {kind}' for kind, count in counts.items() if count)}")  # noqa: T201 a program


def configure(folder: Path, blocks: list[Block]) -> None:
    namespace: dict[str, Any] = {
        "BASE_DIR": folder,
        "SECRET_KEY": "of the pages",
        "ALLOWED_HOSTS": ["testserver"],
        "ROOT_URLCONF": "page",
        "USE_TZ": True,
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "MIDDLEWARE": [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        "INSTALLED_APPS": [],
        "SILENCED_SYSTEM_CHECKS": ["admin.E403", "admin.E406", "admin.E409"],  # the admin is imported, and not opened
        "DATABASES": {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "db.sqlite3",
                "OPTIONS": {"transaction_mode": "IMMEDIATE"},
            }
        },
    }
    for block in blocks:
        execute(block, namespace)
    needed = [f"django.contrib.{app}" for app in ("admin", "auth", "contenttypes", "sessions")]
    needed += ["rest_framework", "django_idempotency", "shop"]
    named = [app for app in namespace["INSTALLED_APPS"] if app is not ...]
    namespace["INSTALLED_APPS"] = [*dict.fromkeys([*named, *needed])]
    settings.configure(**{name: value for name, value in namespace.items() if name.isupper()})
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)


def execute(block: Block, namespace: dict[str, Any]) -> None:
    """Run *block*; a traceback shows the line of the page."""
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    exec(code, namespace)  # noqa: S102 our own pages


def complete(block: Block, module: types.ModuleType) -> None:
    execute(block, module.__dict__)


def raises(block: Block, module: types.ModuleType) -> None:
    from django_idempotency import exceptions

    expected = getattr(exceptions, block.rest)
    try:
        execute(block, dict(module.__dict__))
    except expected:
        return
    raise AssertionError(f"{block} did not raise {block.rest}.")


def fragment(block: Block, module: types.ModuleType) -> None:
    """Compile *block* and import what it imports, with each name."""
    if not block.rest:
        raise AssertionError(f"{block} does not say why it is a fragment.")
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.import_module(node.module or "")
            for name in node.names:
                if not hasattr(source, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")  # a module of a package


def routes(patterns: Any, prefix: str = "") -> list[str]:
    """Every URL of *patterns*, with 1 for primary keys, without pages of a framework: formats, roots, documents."""
    found = []
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            found += routes(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern) and not (
            "format" in str(pattern.pattern) or pattern.name == "api-root" or isinstance(pattern.callback, partial)
        ):
            route = prefix + str(pattern.pattern).replace("(?P<pk>[^/.]+)", "1")
            found.append("/" + route.replace("^", "").replace("$", ""))
    return found


def drive(route: str, *, tested: bool) -> None:
    """
    Send the same POST twice: it must take effect once, and the second answer be the first's replay. A route may refuse
    what is not signed, or not in its protocol, if test cases of the page have *tested* it.
    """
    from django.contrib.auth import get_user_model
    from django.test import Client
    from shop.models import Payment

    owner, _ = get_user_model().objects.get_or_create(username="reader")
    Payment.objects.get_or_create(pk=1, defaults={"amount": 1, "owner": owner})
    client = Client()
    client.force_login(owner)

    def post() -> Any:
        headers = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
        return client.post(route, {"amount": 10}, content_type="application/json", headers=headers)

    first = post()
    is_refusal = first.status_code in (400, 403) or b'"error"' in first.content
    if first.status_code == 405 or (tested and is_refusal):  # a route without POST
        return
    payments = Payment.objects.count()
    second = post()
    seen = (first.status_code, first.headers.get("Idempotency-Replayed"))
    expect(seen[0] in (200, 201) and seen[1] is None, f"{route}: the first answer is {seen}, {first.content!r}")
    seen = (second.status_code, second.headers.get("Idempotency-Replayed"), second.content)
    expect(seen == (first.status_code, "true", first.content), f"{route}: the second answer is {seen}")
    expect(Payment.objects.count() == payments, f"{route}: the retry made another payment")
    print(f"  POST {route}: {first.status_code}, then its replay")  # noqa: T201 a program


def run_test_cases(module: types.ModuleType) -> bool:
    """Run the test cases of the page. Returns whether it has any."""
    from django.test.runner import DiscoverRunner

    cases = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == module.__name__
    ]
    if not cases:
        return False
    runner = DiscoverRunner(verbosity=0)
    runner.setup_test_environment()
    databases = runner.setup_databases()
    try:
        suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
        result = unittest.TextTestRunner(verbosity=0).run(suite)
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
    expect(result.wasSuccessful() and result.testsRun > 0, "a test case of the page fails")
    print(f"  {result.testsRun} tests")  # noqa: T201 a program
    return True


def expect(truth: bool, message: str) -> None:
    if not truth:
        raise SystemExit(message)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="idempotency-docs-") as name:
        main(ROOT / sys.argv[1], Path(name))
