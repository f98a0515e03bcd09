"""How refusals look on the wire: problem details, or what a project makes of its errors."""

import json

import pytest
from django.http import JsonResponse
from rest_framework import renderers
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from django_idempotency import Policy, exceptions, idempotent
from django_idempotency.adapters import drf as drf_edge
from django_idempotency.engine.execution import Refused
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import drf, drf_class, plain, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db

TYPES = {"drf": drf, "plain": plain}
REQUIRED = {"required": True}


def refused(client, code: str):
    """A response that refuses with *code*, of a view that requires a key."""
    assert post(client).status_code == 201
    if code == "key-reused":
        return post(client, {"amount": 11})
    return post(client, key=None if code == "key-missing" else "a b")


CODES = {"key-missing": 400, "key-invalid": 400, "key-reused": 422}


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_is_problem_details(edge, client, serve, code):
    """RFC 9457: type, title, status, detail and our code, in both kinds of views."""
    serve(TYPES[edge](make_payment, required=True))

    response = refused(client, code)
    problem = json.loads(response.content)

    assert response.status_code == CODES[code]
    assert response["Content-Type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert problem["type"] == f"urn:django-idempotency:{code}"
    assert (problem["status"], problem["code"]) == (response.status_code, code)
    assert problem["title"]
    assert problem["detail"]
    assert "Link" not in response
    assert "Retry-After" not in response
    assert "Idempotency-Replayed" not in response


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("docs_url", ["https://docs.example/keys", "/docs/keys/"])
def test_docs_url_is_in_type_and_link(edge, client, serve, code, docs_url):
    """The API's own page explains the code, and a `Link` leads there with every refusal."""
    serve(TYPES[edge](make_payment, required=True, docs_url=docs_url))

    response = refused(client, code)

    assert response.json()["type"] == f"{docs_url}#{code}"
    assert response["Link"] == f'<{docs_url}>; rel="describedby"'
    assert "Link" not in post(client)


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_reveals_nothing_of_the_other_request(edge, client, serve, code):
    """Neither the key nor the payload nor who sent it is in the answer."""
    serve(TYPES[edge](make_payment, required=True))

    text = refused(client, code).content.decode()

    assert not any(secret in text for secret in ("key-1", "payer", "amount", "auth.user"))


@pytest.mark.parametrize("accept", ["application/json", "text/html", "*/*", "application/problem+json"])
def test_problem_details_whatever_is_accepted(api, serve, accept, settings):
    """A refusal is for a program to read: JSON for an HTML `Accept` too, and not a page."""
    renderer_classes = [renderers.JSONRenderer, renderers.BrowsableAPIRenderer]
    serve(drf_class(make_payment, REQUIRED, renderer_classes=renderer_classes))

    response = post(api, key=None, headers={"Accept": accept})

    if accept == "application/problem+json":  # which no renderer of the view serves: DRF's negotiation comes first
        assert response.status_code == 406
    else:
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == "key-missing"


class CsvRenderer(renderers.BaseRenderer):
    media_type = "text/csv"
    format = "csv"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return ",".join(str(value) for value in data.values()).encode()


def test_problem_details_from_a_view_without_json(api, serve):
    """A view that renders CSV only refuses in JSON all the same, and answers in CSV."""
    serve(drf_class(make_payment, REQUIRED, renderer_classes=[CsvRenderer]))

    answered, refused = post(api), post(api, key=None)

    assert answered["Content-Type"].startswith("text/csv")
    assert refused["Content-Type"] == "application/problem+json"
    assert json.loads(refused.content)["code"] == "key-missing"


def test_a_refusal_has_the_views_headers(api, serve):
    """It is finalised like every response of the view: `Allow`, `Vary`."""
    serve(drf(make_payment, required=True))

    answered, refused = post(api), post(api, key=None)

    assert set(refused["Allow"].split(", ")) == set(answered["Allow"].split(", ")) == {"OPTIONS", "PATCH", "POST"}
    assert refused.has_header("Vary") == answered.has_header("Vary")


# --- a project's own format ---


def in_the_projects_format(exc, context):
    """An EXCEPTION_HANDLER as projects have it."""
    response = exception_handler(exc, context)
    if response is not None:
        response.data = {
            "error": {"code": exc.get_codes(), "text": str(exc.detail), "view": type(context["view"]).__name__}
        }
    return response


@pytest.mark.parametrize("code", CODES)
def test_a_projects_exception_handler_formats_ours_like_all_its_others(api, serve, settings, code):
    """The status and the code are ours, the format is the project's; the headers are there."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "EXCEPTION_HANDLER": f"{__name__}.in_the_projects_format",
    }
    serve(drf(make_payment, required=True, docs_url="/docs/"))

    response = refused(api, code)

    assert response.status_code == CODES[code]
    assert response["Content-Type"] == "application/json"
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["text"]
    assert response["Link"] == '</docs/>; rel="describedby"'


def test_a_view_with_an_exception_handler_of_its_own(api, serve):
    """`get_exception_handler` is the view's to override."""
    serve(drf_class(make_payment, REQUIRED, get_exception_handler=lambda self: in_the_projects_format))

    assert post(api, key=None).json() == {
        "error": {
            "code": "key-missing",
            "text": "This action needs the header Idempotency-Key: a new key for each intended action.",
            "view": "View",
        }
    }


def test_a_view_that_overrides_handle_exception(api, serve):
    """It sees an `APIException` with our status and code, and what it answers is sent."""
    seen = []

    def handle_exception(self, exc):
        seen.append((exc.status_code, exc.get_codes()))
        return Response({"mine": exc.get_codes()}, status=exc.status_code)

    serve(drf_class(make_payment, REQUIRED, handle_exception=handle_exception))

    response = post(api, key=None)

    assert seen == [(400, "key-missing")]
    assert (response.status_code, response.json()) == (400, {"mine": "key-missing"})


def test_a_view_that_adds_to_drfs_answer(api, serve):
    """`handle_exception` that calls the parent's and adds a header keeps both."""

    def handle_exception(self, exc):
        response = APIView.handle_exception(self, exc)
        response["X-Mine"] = "yes"
        return response

    serve(drf_class(make_payment, REQUIRED, handle_exception=handle_exception))

    response = post(api, key=None)

    assert response["X-Mine"] == "yes"
    assert response.json()["code"] == "key-missing"


def test_a_finalize_response_that_wraps_data_wraps_ours(api, serve):
    """An envelope around every response of the view is around refusals as well."""

    def finalize_response(self, request, response, *args, **kwargs):
        response.data = {"envelope": response.data}
        return APIView.finalize_response(self, request, response, *args, **kwargs)

    serve(drf_class(make_payment, REQUIRED, finalize_response=finalize_response))

    assert post(api, key=None).json()["envelope"]["code"] == "key-missing"


def test_an_error_of_somebody_else_with_our_status_stays_as_it_is(api, serve):
    """The handler's own 400 and 409 are none of ours to format."""

    class Conflict(APIException):
        status_code = 409
        default_code = "conflict"

    errors = [ValidationError({"amount": "too much"}), Conflict("no")]

    def handler(request):
        raise errors.pop()

    serve(drf(handler, docs_url="/docs/"))

    for body in ({"detail": "no"}, {"amount": "too much"}):
        response = post(api)
        assert response["Content-Type"] == "application/json"
        assert response.json() == body
        assert "Link" not in response


def test_retry_after_with_a_projects_exception_handler(api, serve, settings, monkeypatch):
    """409 says when to come again, whoever formats it."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "EXCEPTION_HANDLER": f"{__name__}.own_response",
    }

    def in_progress(attempt, *args):
        return Refused(RequestInProgress())

    monkeypatch.setattr("django_idempotency.protection.views.run", in_progress)
    serve(drf(make_payment))

    response = post(api)

    assert (response.status_code, response.json()) == (409, {"code": "request-in-progress"})
    assert response["Retry-After"] == "1"


def own_response(exc, context):
    """An EXCEPTION_HANDLER that asks DRF nothing."""
    return Response({"code": exc.get_codes()}, status=exc.status_code)


REFUSALS = [
    getattr(exceptions, name)
    for name in exceptions.__all__
    if issubclass(getattr(exceptions, name), exceptions.Refusal) and name != "Refusal"
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_every_refusal_is_formatted_by_both_edges(edge, client, serve, monkeypatch, refusal):
    """No error class is without status, code, title and detail, and those that a retry helps say when."""

    def refuse(attempt, *args):
        return Refused(refusal())

    monkeypatch.setattr("django_idempotency.protection.views.run", refuse)
    serve(TYPES[edge](make_payment, docs_url="/docs/"))

    response = post(client)

    assert response.status_code == refusal.status
    assert response.json() == {
        "type": f"/docs/#{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": " ".join(refusal.__doc__.split()),
        "code": refusal.code,
    }
    expected = str(refusal.retry_after) if refusal.retry_after else None
    assert response.headers.get("Retry-After") == expected
    assert (expected is not None) == (refusal.code in ("request-in-progress", "store-unavailable", "try-again"))


def test_a_refusal_does_not_stay_with_the_view_class(api, serve):
    """What is changed for one refusal is changed on that request's view object."""

    class View(APIView):
        @idempotent(required=True)
        def post(self, request):
            return make_payment(request)

    serve(View.as_view())

    assert post(api, key=None).status_code == 400
    response = post(api)

    assert response.status_code == 201
    assert response["Content-Type"] == "application/json"
    assert "finalize_response" not in vars(View)
    assert drf_edge.ProblemRenderer not in View.renderer_classes


def test_a_refusal_of_a_plain_view_rolls_nothing_else_back(browser, serve, atomic_requests):
    """Under ATOMIC_REQUESTS, what a decorator outside of ours wrote is its own."""

    def outer(request):
        Payment.objects.create(amount=1)
        return inner(request)

    inner = idempotent(required=True)(lambda request: JsonResponse({}))
    serve(outer)

    assert post(browser, key=None).status_code == 400
    assert Payment.objects.count() == 1


def test_a_policy_of_the_class_formats_refusals(api, serve):
    """`docs_url` on the class serves each of its methods."""

    class View(IdempotencyMixin, APIView):
        idempotency = Policy(required=True, docs_url="/class/")

        def post(self, request):
            return make_payment(request)

    serve(View.as_view())

    assert post(api, key=None)["Link"] == '</class/>; rel="describedby"'
