"""
`gunicorn tests.edges.served:application`: views that are protected, on the database that `SERVED_DATABASE` describes.

Each makes a payment for each line of the body, or for each value of the form, however it reads them.
"""

import json
import os
from io import BytesIO

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
if "SERVED_DATABASE" in os.environ:  # else a test serves the views itself
    settings.DATABASES["default"].update(json.loads(os.environ["SERVED_DATABASE"]))
    settings.ROOT_URLCONF = __name__
    application = get_wsgi_application()

from django.http import JsonResponse
from django.urls import path
from rest_framework.decorators import api_view, parser_classes
from rest_framework.parsers import BaseParser, FormParser, JSONParser, MultiPartParser

from django_idempotency import idempotent
from tests.app.models import Payment
from tests.app.views import answer


def pay(lines):
    """A payment for each of *lines*, in as many statements."""
    return {"payments": [Payment.objects.create(amount=len(line)).amount for line in lines]}


def upload_or(request, data):
    return [*request.FILES["file"]] if request.FILES else data


@idempotent
def plain(request):
    """What Django makes of the body."""
    is_form = request.POST or request.FILES
    lines = upload_or(request, request.POST.getlist("amount")) if is_form else request.body.splitlines()
    return JsonResponse(pay(lines), status=201)


@idempotent
def stream(request):
    """Line by line, as the body arrives; one without a length past Django."""
    source = request if request.META.get("CONTENT_LENGTH") else request.META["wsgi.input"]
    return JsonResponse(pay([*source]), status=201)


class LinesParser(BaseParser):
    """A parser of the project's own, for whatever comes."""

    media_type = "*/*"

    def parse(self, stream, media_type=None, parser_context=None):
        return [*BytesIO(stream.read())]


@api_view(["POST"])
@parser_classes([JSONParser, FormParser, MultiPartParser, LinesParser])
@idempotent
def drf(request):
    """What DRF's parsers make of the body."""
    return answer(request, pay(upload_or(request, [str(request.data)])))


urlpatterns = [path("plain/", plain), path("stream/", stream), path("drf/", drf)]
