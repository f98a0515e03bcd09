"""
How long `manage.py idempotency_audit` takes for a large project, of `ROUTES` (2,000) routes.

Of each five, one is a function behind `login_required`, one a DRF view, and three are those of a viewset. Their
handlers call a function of their module, which is another for each five.
"""

import io
import json
import os
import sys
import time
import types
from typing import Any

import django
from django.conf import settings

SOURCE = """
from django.contrib.auth.decorators import login_required
from django.http import JsonResponse
from rest_framework import permissions, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.views import APIView


def service(data):
    return {"total": sum(data.values())}


@login_required
def function(request):
    return JsonResponse(service({"number": NUMBER}))


class View(APIView):
    permission_classes = [permissions.IsAuthenticated]

    def post(self, request):
        return Response(service(request.data))

    put = delete = post


class ViewSet(viewsets.ViewSet):
    permission_classes = [permissions.IsAuthenticated]

    def create(self, request):
        return Response(service(request.data))

    def update(self, request, pk):
        return Response(service(request.data))

    def destroy(self, request, pk):
        return Response(status=204)

    @action(detail=True, methods=["post"])
    def confirm(self, request, pk):
        return Response(service(request.data))
"""


def patterns(routes: int) -> list[Any]:
    """As many URL patterns, of modules that are made here."""
    from django.urls import path

    found: list[Any] = []
    number = 0
    while len(found) < routes:
        name = f"shop.views_{number}"
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(NUMBER=number, __package__="shop")
        # On lines of their own, or the code of two modules would be equal, and be read once.
        exec(compile("\n" * number + SOURCE, name, "exec"), vars(module))  # noqa: S102 the text above
        made: Any = module
        found += [
            path(f"functions/{number}/", made.function),
            path(f"views/{number}/", made.View.as_view()),
            path(f"sets/{number}/", made.ViewSet.as_view({"post": "create"})),
            path(f"sets/{number}/<pk>/", made.ViewSet.as_view({"put": "update", "delete": "destroy"})),
            path(f"sets/{number}/<pk>/confirm/", made.ViewSet.as_view({"post": "confirm"})),
        ]
        number += 1
    return found[:routes]


def main(routes: int) -> float:
    """Seconds that the command takes, when the URLconf is loaded."""
    from django.core.management import call_command
    from django.urls import get_resolver

    urlconf = sys.modules["shop"] = types.ModuleType("shop")
    vars(urlconf)["urlpatterns"] = patterns(routes)
    get_resolver("shop").url_patterns  # noqa: B018 loads it
    shown = io.StringIO()
    begun = time.perf_counter()
    call_command("idempotency_audit", stdout=shown)
    spent = time.perf_counter() - begun
    if f"/{(routes - 1) // 5}/" not in shown.getvalue():
        raise RuntimeError(f"the last route is not listed: {shown.getvalue()[-500:]}")
    return spent


if __name__ == "__main__":
    settings.configure(
        SECRET_KEY="benchmarks",  # noqa: S106 nothing is signed
        ROOT_URLCONF="shop",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "rest_framework",
            "django_idempotency",
        ],
        MIDDLEWARE=["django_idempotency.middleware.IdempotencyMiddleware"],
    )
    django.setup()
    print(json.dumps(main(int(os.environ.get("ROUTES", "2000")))))
