"""Django Ninja: operations behind Ninja's own authentication, throttling and validation."""

import asyncio
import json

import pytest
from django.conf import settings as django_settings
from django.core import checks
from django.http import Http404, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from ninja import NinjaAPI, Router, Schema
from ninja.decorators import decorate_view
from ninja.errors import HttpError
from ninja.responses import Status
from ninja.security import APIKeyCookie, APIKeyHeader, APIKeyQuery, HttpBasicAuth, HttpBearer, django_auth
from ninja.throttling import AnonRateThrottle

import django_idempotency
from django_idempotency import exceptions, idempotency_exempt
from django_idempotency.contrib.ninja import idempotent, protect
from django_idempotency.exceptions import PolicyError
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import is_replay

pytestmark = pytest.mark.django_db

KEY = {"Idempotency-Key": "key-1"}
TOKENS = {"secret": "alice", "other": "bob"}


class PaymentIn(Schema):
    amount: int


class PaymentOut(Schema):
    id: int
    amount: int


def make(amount: int) -> Payment:
    return Payment.objects.create(amount=amount, reference="ninja")


def new_api(**options) -> NinjaAPI:
    return NinjaAPI(urls_namespace="tested", **options)


@pytest.fixture
def serve(settings):
    def serve(api: NinjaAPI) -> None:
        settings.ROOT_URLCONF = (path("api/", api.urls),)

    return serve


def post(client, body=None, headers=KEY, url="/api/pay", **more):
    sent = json.dumps({"amount": 5} if body is None else body)
    return client.post(url, sent, content_type="application/json", headers=headers, **more)


def on_operation(api, **options):
    @api.post("/pay", response={201: PaymentOut})
    @idempotent(**options)
    def pay(request, payment: PaymentIn):
        return Status(201, make(payment.amount))


def on_async_operation(api, **options):
    @api.post("/pay", response={201: PaymentOut})
    @idempotent(**options)
    async def pay(request, payment: PaymentIn):
        return Status(201, await Payment.objects.acreate(amount=payment.amount, reference="ninja"))


def on_router(api, **options):
    router = Router()
    protect(router, **options)

    @router.post("/pay", response={201: PaymentOut})
    def pay(request, payment: PaymentIn):
        return Status(201, make(payment.amount))

    api.add_router("", router)


def on_api(api, **options):
    protect(api, **options)

    @api.post("/pay", response={201: PaymentOut})
    def pay(request, payment: PaymentIn):
        return Status(201, make(payment.amount))


def on_mounted_router(api, **options):
    """Ninja makes a copy of each operation for each API."""
    router = Router()

    @router.post("/pay", response={201: PaymentOut})
    @idempotent(**options)
    def pay(request, payment: PaymentIn):
        return Status(201, make(payment.amount))

    NinjaAPI(urls_namespace="another").add_router("", router)
    api.add_router("", router)


PLACES = [on_operation, on_async_operation, on_router, on_api, on_mounted_router]


@pytest.fixture(params=PLACES)
def place(request, transactional_db):
    return request.param


class Session:
    """The user of a session."""

    auth = django_auth
    csrf = False

    def allow(self, client, user):
        client.force_login(user)
        return {}

    def revoke(self, client, user):
        client.logout()


class Basic(Session):
    class auth(HttpBasicAuth):
        def authenticate(self, request, username, password):
            return TOKENS.get(password)

    def __init__(self):
        self.auth = type(self).auth()

    def allow(self, client, user):
        return {"Authorization": "Basic YTpzZWNyZXQ="}  # a:secret


class Bearer(Session):
    class auth(HttpBearer):
        def authenticate(self, request, token):
            return TOKENS.get(token)

    def __init__(self):
        self.auth = type(self).auth()

    def allow(self, client, user):
        return {"Authorization": "Bearer secret"}


class InHeader(Session):
    class auth(APIKeyHeader):
        param_name = "X-API-Key"

        def authenticate(self, request, key):
            return TOKENS.get(key)

    def __init__(self):
        self.auth = type(self).auth()

    def allow(self, client, user):
        return {"X-API-Key": "secret"}


class InCookie(Session):
    class auth(APIKeyCookie):
        param_name = "key"

        def authenticate(self, request, key):
            return TOKENS.get(key)

    def __init__(self):
        self.auth = type(self).auth(csrf=False)

    def allow(self, client, user):
        client.cookies["key"] = "secret"
        return {}


class InQuery(Session):
    class auth(APIKeyQuery):
        param_name = "key"

        def authenticate(self, request, key):
            return TOKENS.get(key)

    def __init__(self):
        self.auth = type(self).auth()

    def allow(self, client, user):
        return {}

    url = "/api/pay?key=secret"


@pytest.mark.parametrize("kind", [Session, Basic, Bearer, InHeader, InCookie, InQuery], ids=lambda kind: kind.__name__)
def test_nobody_gets_an_answer_whom_ninja_would_refuse(place, serve, user, monkeypatch, kind):
    """The same credential gets the replay; without it, and after it was revoked, the answer is Ninja's 401."""
    ways = kind()
    api = new_api(auth=ways.auth)
    place(api)
    serve(api)
    client, url = Client(), getattr(ways, "url", "/api/pay")
    headers = ways.allow(client, user)

    first, second = (post(client, headers=KEY | headers, url=url) for _ in range(2))
    stranger = post(Client())
    monkeypatch.delitem(TOKENS, "secret")
    ways.revoke(client, user)
    revoked = post(client, headers=KEY | headers, url=url)

    assert (first.status_code, is_replay(first), is_replay(second)) == (201, False, True)
    assert second.json() == first.json() == {"id": Payment.objects.get().pk, "amount": 5}
    assert [answer.status_code for answer in (stranger, revoked)] == [401, 401]


def test_two_credentials_are_two_callers(serve):
    api = new_api(auth=Bearer().auth)
    on_operation(api)
    serve(api)

    answers = [post(Client(), headers=KEY | {"Authorization": f"Bearer {token}"}) for token in TOKENS]

    assert [is_replay(answer) for answer in answers] == [False, False]
    assert Payment.objects.count() == 2


def test_an_invalid_body_is_refused_before_the_key_is_used(place, serve, client):
    api = new_api()
    place(api)
    serve(api)

    assert post(client, {"amount": "five"}).status_code == 422
    assert not IdempotencyRecord.objects.exists()
    assert post(client).status_code == 201
    assert post(client, {"amount": 6}).json()["code"] == "key-reused"


def test_throttling_counts_replays(serve, client):
    """A replay is a request like any other."""
    api = new_api(throttle=[AnonRateThrottle("2/h")])
    on_operation(api)
    serve(api)

    assert [post(client).status_code for _ in range(3)] == [201, 201, 429]


@pytest.mark.parametrize("key", ["", None])
def test_a_key_is_asked_for(place, serve, client, key):
    api = new_api()
    place(api, required=True)
    serve(api)

    answer = post(client, headers={} if key is None else {"Idempotency-Key": key})

    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert not Payment.objects.exists()


def refuse(error):
    make(1)
    raise error


RESULTS = {
    "a dict": (lambda: {"id": make(1).pk}, 200),
    "a status": (lambda: Status(201, {"id": make(1).pk}), 201),
    "a tuple": (lambda: (201, {"id": make(1).pk}), 201),
    "nothing": (lambda: Status(204, make(1) and None), 204),
    "a response": (lambda: HttpResponse(make(1).pk), 200),
    "404": (lambda: Status(404, {"id": make(1).pk}), 404),
}


@pytest.mark.filterwarnings("ignore:Returning tuple")
@pytest.mark.parametrize(("handler", "status"), RESULTS.values(), ids=RESULTS)
def test_what_ninja_makes_a_response_of_is_stored(serve, client, handler, status):
    api = new_api()

    @api.post("/pay", response={200: dict, 201: dict, 204: None, 404: dict})
    @idempotent
    def pay(request):
        return handler()

    serve(api)

    first, second = (post(client) for _ in range(2))

    assert (first.status_code, is_replay(first)) == (status, False)
    assert (second.status_code, second.content, is_replay(second)) == (status, first.content, True)
    assert second.headers.get("Content-Type") == first.headers.get("Content-Type")
    assert Payment.objects.count() == 1


REFUSALS = {
    "a conflict": (lambda: Status(409, {"id": make(1).pk}), 409),
    "HttpError": (lambda: refuse(HttpError(404, "gone")), 404),
    "Http404": (lambda: refuse(Http404()), 404),
    "of the project": (lambda: refuse(LookupError()), 418),
    "another schema": (lambda: {"id": make(1).pk, "amount": "much"}, 500),
}


@pytest.mark.parametrize(("handler", "status"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_refused_is_rolled_back(serve, handler, status):
    """Exceptions reach Ninja's handlers; an answer that does not fit its schema is one of them."""
    api = new_api()
    api.add_exception_handler(LookupError, lambda request, error: HttpResponse(status=418))

    @api.post("/pay", response={200: PaymentOut, 409: dict})
    @idempotent
    def pay(request):
        return handler()

    serve(api)
    client = Client(raise_request_exception=False)

    assert [post(client).status_code for _ in range(2)] == [status] * 2
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_what_the_function_sets_on_its_response_is_stored(serve, client):
    api = new_api()

    @api.post("/pay")
    @idempotent
    def pay(request, response: HttpResponse):
        response["X-Payment"] = "1"
        return {}

    serve(api)

    assert [post(client).headers["X-Payment"] for _ in range(2)] == ["1", "1"]


def test_the_project_may_answer_with_a_refusal_itself(serve, client):
    api = new_api()
    api.add_exception_handler(exceptions.Refusal, lambda request, error: HttpResponse(error.code, status=499))
    on_operation(api, required=True)
    serve(api)

    answer = post(client, headers={})

    assert (answer.status_code, answer.content) == (499, b"key-missing")


def test_what_is_exempt_or_reads_is_left_out(serve, client):
    api = new_api()
    protect(api, required=True)

    @api.post("/pay")
    @idempotency_exempt
    def pay(request):
        return make(1).pk

    @api.get("/pay")
    def count(request):
        return Payment.objects.count()

    @api.post("/other")
    @idempotent(required=False)
    def other(request):
        return {}

    serve(api)

    assert [is_replay(post(client)) for _ in range(2)] == [False, False]
    assert client.get("/api/pay", headers=KEY).json() == 2
    assert post(client, headers={}, url="/api/other").status_code == 200


@pytest.mark.parametrize("mode", ["observe", "phased"])
def test_other_modes(serve, client, transactional_db, mode):
    api = new_api()

    @api.post("/pay")
    @idempotent(mode=mode)
    def pay(request):
        if mode == "observe":
            return make(1).pk
        return request.idempotency.phase("pay", lambda: make(1).pk)

    serve(api)

    assert [is_replay(post(client)) for _ in range(2)] == [False, mode == "phased"]
    assert Payment.objects.count() == (1 if mode == "phased" else 2)


def test_duplicates_at_once_take_effect_once(serve, transactional_db):
    if "sqlite" in django_settings.DATABASES["default"]["ENGINE"]:
        pytest.skip("each of two async requests needs a connection of its own, and SQLite has one writer")
    api = new_api()
    on_async_operation(api, in_flight="wait")
    serve(api)

    async def at_once():
        return await asyncio.gather(*(post(AsyncClient()) for _ in range(2)))

    answers = asyncio.run(at_once())

    assert [answer.status_code for answer in answers] == [201, 201]
    assert Payment.objects.count() == 1


# --- wrong places ---


def around_run(api):
    @api.post("/pay")
    @decorate_view(django_idempotency.idempotent)
    def pay(request): ...


def around_run_with_options(api):
    @api.post("/pay")
    @decorate_view(django_idempotency.idempotent(required=True))
    def pay(request): ...


def around_run_above(api):
    @decorate_view(django_idempotency.idempotent)
    @api.post("/pay")
    def pay(request): ...


def above(api):
    @idempotent
    @api.post("/pay")
    def pay(request): ...


def above_with_the_general_one(api):
    @django_idempotency.idempotent
    @api.post("/pay")
    def pay(request): ...


@pytest.mark.parametrize(
    "wrong", [around_run, around_run_with_options, around_run_above, above, above_with_the_general_one]
)
def test_a_wrong_place_is_an_error_that_shows_the_right_one(wrong):
    with pytest.raises(PolicyError) as error:
        wrong(new_api())

    assert '    @api.post("/...")\n    @idempotent\n    def pay(request): ...' in str(error.value)
    assert "from django_idempotency.contrib.ninja import idempotent" in str(error.value)


def test_a_stream_is_refused():
    from ninja.streaming import JSONL

    api = new_api()

    with pytest.raises(PolicyError, match="streams its answer"):

        @api.post("/pay", response=JSONL[PaymentOut])
        @idempotent
        def pay(request): ...


def test_a_function_that_ninja_does_not_call_is_an_error(rf):
    @idempotent
    def pay(request): ...

    with pytest.raises(PolicyError, match="does not call"):
        pay(rf.post("/", headers=KEY))


@pytest.mark.parametrize("value", [{"id": 1}, PaymentOut(id=1, amount=5)], ids=["a dict", "a schema"])
def test_the_decorator_for_views_names_the_one_for_ninja(serve, client, value):
    """Django's test client raises what a server would log."""
    api = new_api()

    @api.post("/pay")
    @django_idempotency.idempotent
    def pay(request):
        return value

    serve(api)

    with pytest.raises(exceptions.UnstorableResponse, match=r"django_idempotency\.contrib\.ninja .*protect-ninja"):
        post(client)


# --- what is told of it ---


@pytest.mark.parametrize("place", PLACES[:4])
def test_the_openapi_document_tells_of_it(place):
    api = new_api()
    place(api, required=True)
    schema = api.get_openapi_schema(path_prefix="")

    operation = schema["paths"]["/pay"]["post"]
    responses = operation["responses"]

    header = [each for each in operation["parameters"] if each["name"] == "Idempotency-Key"]
    assert [(each["in"], each["required"]) for each in header] == [("header", True)]
    assert "kept for 24 hours" in header[0]["description"]
    assert {201, 400, 409, 422, 503} == set(responses)
    assert "Idempotency-Replayed" in responses[201]["headers"]
    assert "application/json" in responses[201]["content"]
    problems = {status for status, told in responses.items() if "application/problem+json" in told["content"]}
    assert problems == {400, 409, 422, 503}
    assert [*responses[422]["content"]] == ["application/json", "application/problem+json"]


@pytest.mark.parametrize("place", [None, on_operation, on_api])
def test_the_audit_knows_operations(serve, settings, place):
    """And nothing else of Ninja's is taken for a place that is protected."""
    from django_idempotency.operations.audit import endpoints

    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django_idempotency.middleware.IdempotencyMiddleware"]
    api = new_api(auth=Bearer().auth)
    if place is not None:
        place(api, required=True)
    else:

        @api.post("/pay")
        def pay(request): ...

    serve(api)

    found = {each.route: each for each in endpoints()}
    warned = [each.id.rpartition(".")[2] for each in checks.run_checks() if "api/pay" in each.msg]

    assert found["api/pay"].protection == ("none" if place is None else "decorator")
    assert found["api/pay"].view == f"{__name__}.pay"
    assert ("Django Ninja" in found["api/pay"].why) is (place is None)
    assert warned == (["W018"] if place is None else [])
    assert {each.protection for route, each in found.items() if route != "api/pay"} == {"none"}
