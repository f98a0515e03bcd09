"""
One protected view, with `pip install django-idempotency` alone: a retry is replayed.

The file runs in an environment and a folder of its own, so it imports nothing from this repository but the package.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources

import django
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.urls import path

from django_idempotency import idempotent

executions: list[object] = []
urlpatterns: list[object] = []


def define_view() -> None:
    # These imports read the settings.
    from rest_framework.decorators import api_view
    from rest_framework.response import Response

    @api_view(["POST"])
    @idempotent(required=True)
    def create_payment(request):
        executions.append(request.data)
        return Response({"payment": len(executions)}, status=201)

    urlpatterns.append(path("payments/", create_payment))


def main() -> None:
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": "db.sqlite3",
                "OPTIONS": {"transaction_mode": "IMMEDIATE"},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework", "django_idempotency"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="of the smoke test",
        USE_TZ=True,
    )
    django.setup()
    define_view()
    call_command("check", fail_level="ERROR")
    call_command("makemigrations", check_changes=True, dry_run=True, verbosity=0)
    call_command("migrate", verbosity=0)

    client = Client()

    def post(key: str, amount: int):
        return client.post(
            "/payments/", {"amount": amount}, content_type="application/json", headers={"Idempotency-Key": key}
        )

    first, second, other = post("8e03", 10), post("8e03", 10), post("8e03", 11)

    expect(first.status_code, 201)
    expect(first.headers.get("Idempotency-Replayed"), None)
    expect(second.status_code, 201)
    expect(second.headers.get("Idempotency-Replayed"), "true")
    expect(second.content, first.content)
    expect(other.status_code, 422)
    expect(len(executions), 1)
    expect((importlib.resources.files("django_idempotency") / "py.typed").is_file(), True)

    version = importlib.metadata.version("django-idempotency")
    print(f"django-idempotency {version}, Django {django.__version__}: replayed")


def expect(seen: object, expected: object) -> None:
    """Like assert, which -O removes."""
    if seen != expected:
        raise SystemExit(f"expected {expected!r}, saw {seen!r}")


if __name__ == "__main__":
    main()
