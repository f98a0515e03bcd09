"""drf-spectacular: its documents tell of keys where a key counts, and nowhere else, without a line in the project."""

import pytest
from django.urls import include, path
from django.utils.translation import gettext_lazy
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.response import Response
from rest_framework.views import APIView

from django_idempotency import Policy, idempotency_exempt, idempotent
from django_idempotency.contrib import spectacular
from django_idempotency.operations.audit import endpoints
from django_idempotency.protection.placement import DECORATOR, MIDDLEWARE, MIXIN
from tests.app import views
from tests.app.views import PaymentSerializer
from tests.openapi.conftest import operations, told
from tests.protection.zoo import ANIMALS

OURS = "django_idempotency.middleware.IdempotencyMiddleware"
REFUSALS = {"400", "409", "422", "503"}


def test_the_document_tells_of_each_protected_operation(document):
    """By decorator or mixin, of views, viewsets and actions. GET, PUT and DELETE pass through."""
    found = told(document(api_version="v1"))

    charges = {
        (f"/api/{name}/{rest}", method)
        for name in ("charges", "payments")
        for rest, methods in {
            "": ["post"],
            "transfer/": ["post"],
            "{id}/": ["patch"],
            "{id}/notes/{kind}/": ["post", "patch"],
            "{id}/refund/": ["post", "patch"],
        }.items()
        for method in methods
    }
    assert set(found) == charges | {
        ("/api/actions/{id}/capture/", "post"),
        ("/generic/", "post"),
        ("/method/", "post"),
        ("/method/{account}/", "post"),
        ("/mixed/", "post"),
        ("/mixed{format}", "post"),
        ("/pay/", "post"),
        ("/v1/by-path/", "post"),
        ("/v1/payments/", "post"),
    }
    assert all(set(operation["responses"]) > REFUSALS for operation in found.values())


def test_what_takes_no_key_is_not_changed(document, settings):
    """An operation that is not protected reads as it does without the app."""
    with_it = document()
    without = document({"POSTPROCESSING_HOOKS": []})

    silent = operations(with_it).keys() - told(with_it).keys()
    assert ("/api/charges/{id}/", "put") in silent
    for place in silent:
        assert operations(with_it)[place] == operations(without)[place]


@pytest.mark.parametrize("by_default", [False, True])
def test_the_document_agrees_with_the_audit(serve, settings, document, by_default):
    """Of views in every stacking, with and without the middleware."""
    if by_default:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, OURS]
    animals = [animal for animal in ANIMALS if hasattr(animal.view, "cls") and animal.view.cls.schema is not None]
    serve(*(path(f"zoo/{number}/", animal.view) for number, animal in enumerate(animals)))

    protected = {
        (f"/{each.route}", each.method.lower())
        for each in endpoints()
        if each.protection in (DECORATOR, MIXIN, MIDDLEWARE) and each.route.startswith("zoo/")
    }
    result = document()

    assert protected
    assert {place for place in told(result) if place[0].startswith("/zoo/")} == protected & operations(result).keys()


def test_the_middlewares_settings_count(serve, settings, document):
    """A view that is left out, by a mark or by its whole route, is not told of, also in a part of the document."""

    @idempotency_exempt
    @api_view(["POST"])
    def marked(request): ...

    @api_view(["POST"])
    def pay(request): ...

    settings.MIDDLEWARE = [*settings.MIDDLEWARE, OURS]
    settings.IDEMPOTENCY = {"EXEMPT": ["inner/free/"]}
    part = [path("marked/", marked), path("free/", pay), path("paid/", pay)]
    serve(path("inner/", include(part)))

    assert set(told(document(patterns=part))) == {("/paid/", "post")}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "/api/payments/{id}/refund/"),
        ({"SCHEMA_PATH_PREFIX": "/api", "SCHEMA_PATH_PREFIX_TRIM": True}, "/payments/{id}/refund/"),
        ({"SCHEMA_PATH_PREFIX": "^/api", "SCHEMA_PATH_PREFIX_TRIM": True}, "/payments/{id}/refund/"),
        ({"SCHEMA_PATH_PREFIX_INSERT": "/shop"}, "/shop/api/payments/{id}/refund/"),
        ({"SCHEMA_COERCE_PATH_PK_SUFFIX": True, "CAMELIZE_NAMES": True}, "/api/payments/{id}/refund/"),
        ({"SORT_OPERATIONS": False}, "/api/payments/{id}/refund/"),
    ],
)
def test_a_path_may_be_written_otherwise(document, own, expected):
    """Whatever drf-spectacular's settings make of the paths, as many operations tell of keys."""
    found = told(document(own))

    assert (expected, "post") in found
    assert len(found) == len(told(document()))


def test_a_common_prefix_is_taken_off(serve, settings, document):
    """The one that drf-spectacular finds out by itself."""
    settings.ROOT_URLCONF = (
        path("api/v1/method/", views.Method.as_view()),
        path("api/v1/mixed/", views.Mixed.as_view()),
    )

    assert set(told(document({"SCHEMA_PATH_PREFIX_TRIM": True}))) == {("/method/", "post"), ("/mixed/", "post")}


def test_names_of_parameters_tell_routes_apart(settings, document):
    """Two routes whose parameters alone have other names, of which one is protected; also in camel case."""

    class Free(APIView):
        serializer_class = None

        @extend_schema(request=None, responses=None)
        def post(self, request, **kwargs): ...

    settings.ROOT_URLCONF = (
        path("<int:bank_account>/", views.Method.as_view()),
        path("<slug:card_number>/", Free.as_view()),
    )

    assert set(told(document())) == {("/{bank_account}/", "post")}
    assert set(told(document({"CAMELIZE_NAMES": True}))) == {("/{bankAccount}/", "post")}


def test_what_the_view_says_comes_first(serve, document):
    """Its own description of the header and of a refusal is kept; ours follows where both can stand."""

    class Trouble(serializers.Serializer):
        why = serializers.CharField()

    @extend_schema(
        request=PaymentSerializer,
        parameters=[OpenApiParameter("idempotency-key", str, "header", description="Ours is better.")],
        responses={
            201: PaymentSerializer,
            400: Trouble,
            409: OpenApiResponse(Trouble, gettext_lazy("Not now.")),
        },
    )
    @api_view(["POST"])
    @idempotent
    def act(request): ...

    serve(act)
    operation = operations(document())["/act/", "post"]

    assert [each["description"] for each in operation["parameters"]] == ["Ours is better."]
    for status in ("400", "409"):
        content = operation["responses"][status]["content"]
        assert [*content] == ["application/json", "application/problem+json"]
        assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Trouble"}
    assert "the request is not valid" not in operation["responses"]["400"]["description"]
    assert operation["responses"]["409"]["description"].startswith("Not now.\n\n- `request-in-progress`")


def test_an_operation_that_is_written_by_hand_tells_of_it(serve, document):
    responses = {"201": {"description": "Paid."}, "409": {"$ref": "#/components/responses/Busy"}}

    @extend_schema(operation={"operationId": "act", "responses": responses})
    @api_view(["POST"])
    @idempotent
    def act(request): ...

    serve(act)
    written = told(document())["/act/", "post"]["responses"]

    assert "Idempotency-Replayed" in written["201"]["headers"]
    assert written["409"] == responses["409"]


def handler_of_the_project(exc, context):
    return Response({"error": str(exc)}, status=exc.status_code)


def test_a_project_with_its_own_errors_keeps_them(settings, document):
    """Its `EXCEPTION_HANDLER` formats the refusals, so the document says nothing of their bodies."""
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "EXCEPTION_HANDLER": f"{__name__}.handler_of_the_project"}
    result = document()

    assert all("content" not in told(result)["/method/", "post"]["responses"][status] for status in REFUSALS)
    assert "IdempotencyProblem" not in result["components"]["schemas"]


def test_observe_mode_is_not_told_of(serve, document):
    """Nothing is refused or replayed there."""

    @extend_schema(request=None, responses=None)
    @api_view(["POST"])
    @idempotent(mode="observe")
    def act(request): ...

    serve(act)

    assert ("/act/", "post") not in told(document())


def test_a_key_that_is_no_header_is_described(serve, document):
    @extend_schema(request=PaymentSerializer, responses={201: PaymentSerializer}, description="Pays.")
    @api_view(["POST"])
    @idempotent(key=lambda request: request.data["reference"])
    def act(request): ...

    serve(act)
    operation = operations(document())["/act/", "post"]

    assert operation["description"].startswith("Pays.\n\nThe idempotency key is a part of the request.\n\n- Form: ")
    assert "parameters" not in operation
    assert "Idempotency-Replayed" in operation["responses"]["201"]["headers"]


def test_options_of_a_view_show(serve, document):
    """The names of the headers, and whether a key is required, are the view's own."""

    class Act(APIView):
        idempotency = Policy(required=True, header="X-Key", replayed_header="X-Again", key_format="uuid")

        @extend_schema(request=PaymentSerializer, responses={201: PaymentSerializer, 404: None})
        @idempotent
        def post(self, request): ...

    serve(Act.as_view())
    operation = operations(document())["/act/", "post"]

    (parameter,) = operation["parameters"]
    assert (parameter["in"], parameter["name"], parameter["required"]) == ("header", "X-Key", True)
    assert parameter["schema"] == {"type": "string", "format": "uuid"}
    marked = {status for status, response in operation["responses"].items() if "X-Again" in response.get("headers", {})}
    assert marked == {"201", "404"}
    waiting = {status for status, found in operation["responses"].items() if "Retry-After" in found.get("headers", {})}
    assert waiting == {"409", "503"}


@pytest.mark.parametrize("named", [False, True])
def test_the_hook_is_there_once(monkeypatch, named):
    """As the last one, or where the project names it."""

    def own(result, **kwargs): ...

    hooks = [spectacular.document, own] if named else [own]
    monkeypatch.setattr(spectacular_settings, "POSTPROCESSING_HOOKS", hooks)
    spectacular.install()
    spectacular.install()

    assert hooks == ([spectacular.document, own] if named else [own, spectacular.document])
