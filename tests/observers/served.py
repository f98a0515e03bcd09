"""What gunicorn serves: a protected view that names its process, and the metrics as the manual has them."""

import os

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.observers.settings")
application = get_wsgi_application()

from prometheus_client import CollectorRegistry, generate_latest  # noqa: E402
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402

from django_idempotency import idempotent  # noqa: E402


@idempotent
def act(request):
    return JsonResponse({"process": os.getpid()}, status=201)


def metrics(request):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return HttpResponse(generate_latest(registry), content_type="text/plain")


urlpatterns = [path("act/", act), path("metrics", metrics)]
