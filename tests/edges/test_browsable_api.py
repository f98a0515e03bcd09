"""The browsable API's forms have a field for the key, where a request would be protected. The script: tests/browser."""

import re
import subprocess
import sys

import pytest
from rest_framework import generics, renderers
from rest_framework.decorators import api_view, parser_classes, renderer_classes
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from django_idempotency import Policy, idempotency_exempt, idempotent
from django_idempotency.renderers import BrowsableAPIRenderer
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import PATH, post
from tests.app.views import PaymentSerializer

pytestmark = pytest.mark.django_db

FIELD = re.compile(r'<input[^>]* id="idempotency-(?P<form>[a-z]+-[A-Z]+)"[^>]*>')
VALUE = re.compile(r' value="([^"]*)"')


class Bare(generics.ListCreateAPIView):
    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer
    renderer_classes = [JSONRenderer, BrowsableAPIRenderer]


class BareDetail(generics.RetrieveUpdateDestroyAPIView):
    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer
    renderer_classes = [JSONRenderer, BrowsableAPIRenderer]


class Protected(IdempotencyMixin, Bare):
    pass


class ProtectedDetail(IdempotencyMixin, BareDetail):
    pass


def fields(page) -> dict[str, str]:
    """The value of the key's field in each form of *page*."""
    found = {each["form"]: VALUE.search(each[0]) for each in FIELD.finditer(page.content.decode())}
    return {form: value[1] if value else "" for form, value in found.items()}


def get(client, path: str = PATH):
    page = client.get(path, headers={"Accept": "text/html"})
    assert page["Content-Type"].startswith("text/html")
    return page


def sent(client, data, key="key-1", **extra):
    """As the page's script sends a form."""
    return post(client, data, key=key, headers={"Accept": "text/html; q=1.0, */*"}, **extra)


def test_the_forms_of_a_protected_view_have_a_field(api, serve):
    """It belongs to no form, so serializers never see it. It is empty, so a page that is replayed repeats no key."""
    serve(Protected.as_view())

    page = get(api)

    assert fields(page) == {"form-POST": "", "raw-POST": ""}
    assert all('form="none"' in each[0] for each in FIELD.finditer(page.content.decode()))
    assert 'data-idempotency-header="Idempotency-Key"' in page.content.decode()
    assert "django_idempotency/api.js" in page.content.decode()


def test_only_what_is_protected_has_a_field(api, serve):
    """PUT is not, by default; its raw form has a button for PATCH, which is."""
    payment = Payment.objects.create(amount=1)
    serve(ProtectedDetail.as_view(), route="act/<int:pk>/")
    assert fields(get(api, f"/act/{payment.pk}/")) == {"raw-PUT": ""}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(methods=["PUT"]), {"form-PUT", "raw-PUT"}),
        (Policy(methods=["DELETE"]), set()),
        (Policy(key=lambda request: "1"), set()),
        (Policy(mode="observe"), {"raw-PUT"}),
    ],
    ids=["put", "delete", "key elsewhere", "observe"],
)
def test_the_policy_says_which_forms_have_a_field(api, serve, policy, expected):
    payment = Payment.objects.create(amount=1)
    view = type("View", (ProtectedDetail,), {"idempotency": policy})
    serve(view.as_view(), route="act/<int:pk>/")
    assert set(fields(get(api, f"/act/{payment.pk}/"))) == expected


def test_a_header_of_the_projects_own(api, serve):
    serve(type("View", (Protected,), {"idempotency": Policy(header="X-Once")}).as_view())
    assert 'data-idempotency-header="X-Once"' in get(api).content.decode()


def test_a_function_view(api, serve):
    """Without a serializer it has the raw form alone."""

    @api_view(["GET", "POST"])
    @renderer_classes([JSONRenderer, BrowsableAPIRenderer])
    @parser_classes([JSONParser])
    @idempotent
    def view(request):
        return Response({})

    serve(view)
    assert fields(get(api)) == {"raw-POST": ""}


@pytest.mark.parametrize("installed", [True, False])
def test_the_middleware(api, serve, settings, installed):
    """What it protects has the field; what it leaves out has none."""
    if installed:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django_idempotency.middleware.IdempotencyMiddleware"]
    serve(Bare.as_view())
    assert bool(fields(get(api))) == installed
    serve(idempotency_exempt(Bare.as_view()))
    assert not fields(get(api))


def test_a_view_without_a_route(rf, user):
    """RequestFactory resolves none."""
    request = rf.get(PATH, headers={"Accept": "text/html"})
    assert not fields(Protected.as_view()(request).render())


def test_the_key_is_kept_while_nothing_is_done(api, serve):
    """After an error, in the forms of the method that was sent. Mending it is one effect, and then the key is new."""
    serve(Protected.as_view())

    wrong = sent(api, {"amount": "much"})
    assert (wrong.status_code, fields(wrong)) == (400, {"form-POST": "key-1", "raw-POST": "key-1"})
    done = sent(api, {"amount": 5})
    assert (done.status_code, fields(done)) == (201, {"form-POST": "", "raw-POST": ""})
    assert Payment.objects.count() == 1


def test_a_key_is_escaped(api, serve):
    serve(Protected.as_view())
    wrong = sent(api, {"amount": "much"}, key='"a\\"><b>"')
    assert set(fields(wrong).values()) == {"&quot;a\\&quot;&gt;&lt;b&gt;&quot;"}


def test_a_refusal_is_shown_in_the_page(api, serve):
    """A key that cannot be used again is not kept."""
    serve(Protected.as_view())
    sent(api, {"amount": 5})

    refused = sent(api, {"amount": 6})

    assert (refused.status_code, fields(refused)) == (422, {"form-POST": "", "raw-POST": ""})
    assert refused["Content-Type"].startswith("text/html")
    assert "key-reused" in refused.content.decode()


def test_the_key_of_a_request_in_progress_is_kept(api, serve, monkeypatch):
    """Another click with it gets the answer."""
    from django_idempotency.engine.execution import Refused
    from django_idempotency.exceptions import RequestInProgress
    from django_idempotency.protection import views

    serve(Protected.as_view())
    monkeypatch.setattr(views, "run", lambda *args: Refused(RequestInProgress()))

    refused = sent(api, {"amount": 5})

    assert (refused.status_code, refused["Retry-After"]) == (409, "1")
    assert set(fields(refused).values()) == {"key-1"}


def test_an_unavailable_store_is_no_page(api, serve, monkeypatch):
    """A page would ask the database, for the choices of its forms."""
    from django_idempotency.engine.execution import Refused
    from django_idempotency.exceptions import StoreUnavailable
    from django_idempotency.protection import views

    serve(Protected.as_view())
    monkeypatch.setattr(views, "run", lambda *args: Refused(StoreUnavailable()))

    refused = sent(api, {"amount": 5})

    assert (refused.status_code, refused["Content-Type"]) == (503, "application/problem+json")


def test_programs_are_not_affected(api, serve):
    """JSON in and out, and refusals as problem details, as with DRF's own renderer."""
    answers = []
    for renderer in (BrowsableAPIRenderer, renderers.BrowsableAPIRenderer):
        Payment.objects.all().delete()
        serve(type("View", (Protected,), {"renderer_classes": [JSONRenderer, renderer]}).as_view())
        key = renderer.__module__
        found = [post(api, data, key=key) for data in ({"amount": "much"}, {"amount": 5}, {"amount": 5}, {"amount": 6})]
        answers.append([(each.status_code, each["Content-Type"], sorted(each.headers)) for each in found])
    assert answers[0] == answers[1]
    assert [status for status, *_ in answers[0]] == [400, 201, 201, 422]


def test_it_can_be_the_projects_default():
    """DRF imports the renderer while it imports its views, which may be before models are ready."""
    code = f"""
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework", "django_idempotency"],
    REST_FRAMEWORK={{"DEFAULT_RENDERER_CLASSES": ["{BrowsableAPIRenderer.__module__}.BrowsableAPIRenderer"]}},
)
from rest_framework.views import APIView
assert APIView.renderer_classes[0].__module__ == "{BrowsableAPIRenderer.__module__}"
import django
django.setup()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
