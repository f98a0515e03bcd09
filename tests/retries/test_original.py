"""Each run of a handler gets the request, and its arguments, as the first one got them."""

import io
from typing import Any

import pytest
from django.contrib import messages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from ninja import NinjaAPI, Schema
from ninja.responses import Status
from rest_framework.parsers import JSONParser
from rest_framework.response import Response
from rest_framework.views import APIView

from django_idempotency import idempotent, once
from django_idempotency.contrib import ninja
from django_idempotency.exceptions import TryAgain
from tests.app.models import Payment
from tests.app.serving import KEY, PATH, drf, drf_class, plain, post
from tests.app.views import answer
from tests.retries.conftest import Handler, lose

pytestmark = pytest.mark.django_db(transaction=True)


def assert_alike(handler: Handler, response: Any, *expected: Any) -> None:
    assert response.status_code == 201
    assert handler.seen == [*expected] * 2


@pytest.mark.parametrize("key", ["amount", "items"])
def test_parsed_data_of_drf(api, serve, key):
    """A handler pops from it and appends to it."""

    def look(request):
        data = request.data
        data["items"].append("more")
        return data.pop(key) if key == "amount" else list(data["items"])

    handler = Handler(1, look=look)
    serve(drf(handler, retries=1))

    response = post(api, {"amount": 10, "items": ["one"]})

    assert_alike(handler, response, 10 if key == "amount" else ["one", "more"])


def test_data_that_was_parsed_before_the_handler(api, serve):
    """A permission reads it, and the parsed object is the handler's too."""

    class Reads:
        def has_permission(self, request, view):
            return request.data["amount"] == 10

    handler = Handler(1, look=lambda request: request.data.pop("amount"))
    serve(drf_class(handler, {"retries": 1}, permission_classes=[Reads]))

    assert_alike(handler, post(api), 10)


@pytest.mark.parametrize("read", [lambda request: request.body, lambda request: request.read()], ids=["body", "read"])
def test_the_bytes_of_the_body(browser, serve, read):
    """Also where the handler has read the stream to its end."""
    handler = Handler(1, look=read)
    serve(plain(handler, retries=1))

    assert_alike(handler, post(browser), b'{"amount": 10}')


@pytest.mark.parametrize("size", [10, 3_000_000], ids=["in memory", "in a file"])
@pytest.mark.parametrize("is_read_before", [False, True], ids=["unread", "read before"])
def test_the_fields_and_files_of_a_form(browser, serve, settings, size, is_read_before):
    """Files are read from their start, also where a middleware has parsed the form."""

    def reads(get_response):
        def middleware(request):
            if is_read_before:
                assert request.POST["name"] == "Ada"
            return get_response(request)

        return middleware

    globals()["reads"] = reads
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.reads"]
    handler = Handler(1, look=lambda request: (request.POST["name"], len(request.FILES["photo"].read())))
    serve(plain(handler, retries=1))

    photo = SimpleUploadedFile("photo.png", b"x" * size)
    response = browser.post(PATH, {"name": "Ada", "photo": photo}, headers=KEY)

    assert_alike(handler, response, ("Ada", size))


def test_a_large_body_without_a_form(browser, serve):
    """It is kept in a file, and read there again."""
    handler = Handler(1, look=lambda request: len(request.read()))
    serve(plain(handler, retries=1))

    response = browser.post(PATH, b"x" * 2_000_000, content_type="application/octet-stream", headers=KEY)

    assert_alike(handler, response, 2_000_000)


def test_a_chunked_body(browser, serve):
    """It has no length, and is kept in `wsgi.input`."""
    handler = Handler(1, look=lambda request: request.environ["wsgi.input"].read())
    serve(plain(handler, retries=1))

    response = browser.generic(
        "POST", PATH, headers={**KEY, "Transfer-Encoding": "chunked"}, CONTENT_LENGTH="",
        **{"wsgi.input": io.BytesIO(b"chunks"), "wsgi.input_terminated": True},
    )  # fmt: skip

    assert_alike(handler, response, b"chunks")


def test_the_user(protect, client, serve, user):
    """Its row is rolled back, and so is the object in memory: a balance is not reduced twice."""

    def spend(request):
        request.user.last_name += "x"
        request.user.save()
        return request.user.last_name

    handler = Handler(1, look=spend)
    serve(protect(handler, retries=1))

    assert_alike(handler, post(client), "x")
    user.refresh_from_db()
    assert user.last_name == "x"


def test_session_and_messages(browser, serve):
    """What the first run has put there is not there."""

    def look(request):
        request.session["visits"] = [*request.session.get("visits", []), "one"]
        messages.info(request, "paid")
        request.noted = getattr(request, "noted", 0) + 1
        return len(request.session["visits"]), len(request._messages), request.noted

    handler = Handler(1, look=look)
    serve(plain(handler, retries=1))

    assert_alike(handler, post(browser), (1, 1, 1))
    assert browser.session["visits"] == ["one"]


def test_a_session_of_the_first_run_is_gone_after_a_refusal(browser, serve):
    """A handler that logs in loses: the row of its session is rolled back, and the refusal is answered with the old."""
    from django.contrib.auth import logout

    serve(plain(Handler(1, look=logout)))
    before = browser.session.session_key

    assert post(browser).json()["code"] == "try-again"
    assert browser.session.session_key == before


def test_the_view_object_of_a_class(browser, api, serve):
    """An attribute that the handler sets, and what it has cached, is not there in the next run."""
    handler = Handler(1, look=lambda view: vars(view).setdefault("count", 0))

    class Plain(View):
        @method_decorator(idempotent(retries=1))
        def post(self, request):
            handler.work(self)
            return answer(request, {})

    class Drf(APIView):
        @idempotent(retries=1)
        def post(self, request):
            handler.work(self)
            self.count += 1
            return Response({}, status=201)

    serve(path("act/", Plain.as_view()), path("drf/", Drf.as_view()))

    assert_alike(handler, post(browser), 0)
    handler.runs, handler.seen = 0, []
    assert_alike(handler, post(api, url="/drf/"), 0)


def test_a_parser_of_the_projects_own(api, serve):
    """It reads the stream."""

    class Parser(JSONParser):
        def parse(self, stream, media_type=None, parser_context=None):
            return {"bytes": stream.read()}

    handler = Handler(1, look=lambda request: request.data["bytes"])
    serve(drf_class(handler, {"retries": 1}, parser_classes=[Parser]))

    assert_alike(handler, post(api), b'{"amount": 10}')


def test_what_cannot_be_copied_is_not_run_again(api, serve, caplog):
    """A view cannot be given again what its class refuses to copy: 503, and a warning says why."""

    class Parser(JSONParser):
        def parse(self, *args, **kwargs):
            return connection.connection  # a driver's connection, which no copy shares

    class Reads:
        def has_permission(self, request, view):
            return request.data is not None

    handler = Handler(1)
    options = {"retries": 1, "fingerprint": lambda request: b""}
    serve(drf_class(handler, options, parser_classes=[Parser], permission_classes=[Reads]))

    assert post(api).json()["code"] == "try-again"
    assert handler.runs == 1
    assert "cannot be copied" in caplog.text


class PaymentIn(Schema):
    amount: int


def test_what_ninja_has_parsed(browser, serve):
    """An operation changes the object that Ninja has made of the body."""

    def look(payment: PaymentIn) -> int:
        payment.amount += 1
        return payment.amount

    handler = Handler(1, look=look)
    api = NinjaAPI(urls_namespace="retries")

    @api.post("/act/", response={201: dict})
    @ninja.idempotent(retries=1)
    def pay(request, payment: PaymentIn):
        handler.work(payment)
        return Status(201, {})

    serve(path("", api.urls))

    assert_alike(handler, post(browser), 11)


# --- @once ---


def test_the_arguments_of_once():
    """An event is handed over as it was."""
    handler = Handler(1, look=lambda event: event.pop("id"))
    paid = once("retries.arguments", key=lambda event: event["id"], retries=1)(lambda event: handler.work(event))

    paid({"id": "e1"})

    assert handler.seen == ["e1", "e1"]
    assert Payment.objects.count() == 1


def test_once_without_retries():
    """`TryAgain`, for the broker to deliver it again."""
    handler = Handler(1)
    paid = once("retries.refused", key=lambda event: event)(lambda event: handler.work(event))

    with pytest.raises(TryAgain):
        paid("e1")
    assert not Payment.objects.exists()
    paid("e1")
    assert handler.runs == 2


class Consumer:
    """Its state is its own business, and it may hold what cannot be copied."""

    def __init__(self) -> None:
        self.connection = connection
        self.runs = 0

    @once("retries.method", key=lambda self, event: event, retries=1)
    def handle(self, event: str) -> int:
        self.runs += 1
        if self.runs == 1:
            lose()
        return self.runs


def test_the_instance_of_a_method_is_handed_over_as_it_is():
    """It is no part of the event."""
    consumer = Consumer()

    assert consumer.handle("e1") == 2
