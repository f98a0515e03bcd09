"""A replay against the first answer: status, reason, bytes and headers, with the project's middleware around both."""

import gzip
import pickle
from pathlib import Path

import pytest
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.test import Client
from django.utils.cache import patch_vary_headers
from rest_framework import generics, renderers
from rest_framework.authentication import SessionAuthentication
from rest_framework.response import Response
from rest_framework.views import APIView

from django_idempotency import idempotent
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import PATH, drf, drf_class, is_replay, plain, post
from tests.app.views import PaymentSerializer, answer, make_payment

pytestmark = pytest.mark.django_db

MARK = "Idempotency-Replayed"


def headers(response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name != MARK}


def body(response) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else response.content


def assert_equal(first, second) -> None:
    """The retry got what the first caller got, but for the mark of a replay."""
    assert MARK not in first
    assert second[MARK] == "true"
    assert second.status_code == first.status_code
    assert second.reason_phrase == first.reason_phrase
    assert body(second) == body(first)
    assert headers(second) == headers(first)


def with_headers(request):
    response = answer(request, {"amount": "\u20ac 10", "nested": [1, None, 2.5]})
    response["ETag"] = '"v1"'
    response["Cache-Control"] = "no-store"
    response["Location"] = "/payments/1/"
    response["X-Odd"] = "caf\u00e9; \u00fc"
    response["Content-Language"] = "ja"
    patch_vary_headers(response, ["X-Tenant"])
    return response


def with_reason(request):
    return HttpResponse("short", status=201, reason="Made For You")


ANSWERS = {
    "JSON with headers": with_headers,
    "binary": lambda request: HttpResponse(bytes(range(256)), content_type="application/octet-stream"),
    "empty 204": lambda request: HttpResponse(status=204),
    "204 of the framework": lambda request: answer(request, None, 204),
    "redirect": lambda request: HttpResponseRedirect("/receipts/1/?from=here#there"),
    "402": lambda request: answer(request, {"code": "card-declined"}, 402),
    "404": lambda request: answer(request, {"detail": "gone"}, 404),
    "reason": with_reason,
    "text in another charset": lambda request: HttpResponse(
        "caf\u00e9".encode("latin-1"), content_type="text/plain; charset=latin-1"
    ),
    "no content type": lambda request: without_content_type(),
    "content length": lambda request: HttpResponse("ten", headers={"Content-Length": "3"}),
}


def without_content_type():
    response = HttpResponse(b"raw")
    del response["Content-Type"]
    return response


@pytest.mark.parametrize("handler", ANSWERS.values(), ids=ANSWERS)
def test_a_replay_is_equal(protect, client, serve, handler):
    """Whatever the handler answered."""
    serve(protect(handler))

    assert_equal(post(client), post(client))


def test_a_file_is_replayed(protect, client, serve, tmp_path):
    """A `FileResponse` within `max_body` is read and stored, with its headers, and its file is closed."""
    file = tmp_path / "receipt.pdf"
    file.write_bytes(b"%PDF" + bytes(1000))
    opened = []

    def handler(request):
        opened.append(file.open("rb"))
        return FileResponse(opened[-1], as_attachment=True)

    serve(protect(handler))

    first = post(client)
    content = body(first)
    second = post(client)

    assert content == body(second) == file.read_bytes()
    assert headers(first) == headers(second)
    assert second["Content-Disposition"] == 'attachment; filename="receipt.pdf"'
    assert len(opened) == 1
    assert opened[0].closed


@pytest.mark.parametrize("what", ["file", "stream"])
def test_a_response_that_cannot_be_stored_is_closed(protect, client, serve, tmp_path, what):
    """The 500 takes its place, so nobody else would close its file."""
    path = tmp_path / "receipt.pdf"
    path.write_bytes(bytes(2000))
    opened = []

    def handler(request):
        opened.append(Path(path).open("rb"))  # noqa: SIM115 the response's to close
        return FileResponse(opened[0]) if what == "file" else StreamingHttpResponse(opened[0])

    serve(protect(handler, max_body=1000))

    assert post(client).status_code == 500
    assert opened[0].closed


NEVER = {
    "Set-Cookie": lambda response: response.set_cookie("a", "b"),
    "Date": lambda response: response.headers.__setitem__("Date", "Wed, 21 Oct 2015 07:28:00 GMT"),
    "Server": lambda response: response.headers.__setitem__("Server", "ours"),
    "Connection": lambda response: response.headers.__setitem__("Connection", "close"),
    "Keep-Alive": lambda response: response.headers.__setitem__("Keep-Alive", "timeout=5"),
    "Transfer-Encoding": lambda response: response.headers.__setitem__("Transfer-Encoding", "chunked"),
    "Upgrade": lambda response: response.headers.__setitem__("Upgrade", "h2c"),
    "X-Hop": lambda response: [
        response.headers.__setitem__(*pair) for pair in (("Connection", "X-Hop"), ("X-Hop", "1"))
    ],
}


@pytest.mark.parametrize(("name", "add"), NEVER.items(), ids=NEVER)
def test_headers_of_one_connection_or_moment_are_not_replayed(protect, client, serve, name, add):
    """The first caller gets them; a record keeps none of them."""

    def handler(request):
        response = answer(request, {})
        add(response)
        response["X-Kept"] = "yes"
        return response

    serve(protect(handler))

    first, second = post(client), post(client)

    assert name in first or name == "Set-Cookie"
    assert name not in second
    assert not second.cookies
    assert second["X-Kept"] == "yes"


# --- middleware ---

MIDDLEWARE = {
    "gzip": "django.middleware.gzip.GZipMiddleware",
    "locale": "django.middleware.locale.LocaleMiddleware",
    "conditional get": "django.middleware.http.ConditionalGetMiddleware",
    "security": "django.middleware.security.SecurityMiddleware",
    "clickjacking": "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csrf": "django.middleware.csrf.CsrfViewMiddleware",
    "vary": f"{__name__}.varies",
    "id of each request": f"{__name__}.numbers",
}


def varies(get_response):
    def middleware(request):
        response = get_response(request)
        patch_vary_headers(response, ["Accept-Language", "Cookie"])
        return response

    return middleware


def numbers(get_response):
    def middleware(request):
        response = get_response(request)
        response["X-Request-Number"] = request.headers.get("X-Number", "none")
        return response

    return middleware


def long_answer(request):
    response = answer(request, {"text": "ten euros " * 100})
    response["Vary"] = "X-Tenant"
    return response


@pytest.mark.parametrize("middleware", MIDDLEWARE.values(), ids=MIDDLEWARE)
def test_middleware_around_a_replay(protect, client, serve, settings, middleware):
    """What middleware adds on the way out is added anew, once."""
    settings.MIDDLEWARE = [middleware, *settings.MIDDLEWARE]
    serve(protect(long_answer))

    def send():
        return post(client, headers={"Accept-Encoding": "gzip", "Accept-Language": "en"})

    first, second = send(), send()

    assert first.status_code == 201
    if "gzip" in middleware:  # which puts random bytes before its content, against BREACH
        assert first["Content-Encoding"] == second["Content-Encoding"] == "gzip"
        assert gzip.decompress(first.content) == gzip.decompress(second.content)
        drop = ("Content-Length",)
        assert {k: v for k, v in headers(first).items() if k not in drop} == {
            k: v for k, v in headers(second).items() if k not in drop
        }
        assert int(second["Content-Length"]) == len(second.content)
    else:
        assert_equal(first, second)


def test_each_responses_own_middleware_headers_are_its_own(protect, client, serve, settings):
    """A header that middleware adds is of this request, not of the first."""
    settings.MIDDLEWARE = [MIDDLEWARE["id of each request"], *settings.MIDDLEWARE]
    serve(protect(make_payment))

    first, second = post(client, headers={"X-Number": "1"}), post(client, headers={"X-Number": "2"})

    assert (first["X-Request-Number"], second["X-Request-Number"]) == ("1", "2")
    assert is_replay(second)


def test_a_retry_may_accept_less_or_more(protect, client, serve):
    """Content type and language are the first answer's, whatever the retry asks for."""
    serve(protect(make_payment))

    first = post(client, headers={"Accept": "application/json", "Accept-Language": "de"})
    second = post(client, headers={"Accept": "*/*;q=0.1", "Accept-Language": "fr", "Accept-Encoding": "br"})

    assert_equal(first, second)


def test_an_accept_that_the_view_cannot_serve_is_drfs_406(api, serve):
    """Negotiation comes before the handler, and before a replay."""
    serve(drf_class(make_payment, renderer_classes=[renderers.JSONRenderer]))

    assert post(api).status_code == 201
    assert post(api, headers={"Accept": "image/png"}).status_code == 406
    assert is_replay(post(api))


# --- DRF's responses ---


def test_a_replay_is_a_rendered_response_with_data(api, serve):
    """Test clients, loggers and finalizers look at `.data` and `.accepted_renderer`."""
    serve(drf(make_payment))

    first, second = post(api), post(api)

    assert isinstance(second, Response)
    assert second.is_rendered
    assert second.data == first.data
    assert second.accepted_renderer.format == "json"
    assert second.accepted_media_type == "application/json"
    assert second.renderer_context["request"].method == "POST"
    assert second.json() == first.json()
    assert [name for name in vars(first) if not hasattr(second, name)] == []  # of the versions of Django and DRF
    assert pickle.loads(pickle.dumps(second)).content == first.content  # noqa: S301 as a middleware's cache does


ENVELOPES = {}


def envelope(function):
    ENVELOPES[function.__name__] = function
    return function


@envelope
def changed_data(self, request, response, *args, **kwargs):
    response.data = {"data": response.data}
    return APIView.finalize_response(self, request, response, *args, **kwargs)


@envelope
def new_response(self, request, response, *args, **kwargs):
    response = Response({"data": response.data}, status=response.status_code)
    return APIView.finalize_response(self, request, response, *args, **kwargs)


@envelope
def header_added(self, request, response, *args, **kwargs):
    response = APIView.finalize_response(self, request, response, *args, **kwargs)
    response["X-Finalized"] = str(int(response.get("X-Finalized", 0)) + 1)
    return response


@pytest.mark.parametrize("finalize", ENVELOPES.values(), ids=ENVELOPES)
@pytest.mark.parametrize("by", ["decorator", "mixin"])
def test_a_finalize_response_is_applied_once(api, serve, finalize, by):
    """To the execution, inside its transaction; a replay is final already."""

    def handler(self, request):
        return make_payment(request)

    if by == "decorator":
        View = type("View", (APIView,), {"post": idempotent(handler), "finalize_response": finalize})
    else:
        View = type("View", (IdempotencyMixin, APIView), {"post": handler, "finalize_response": finalize})
    serve(View.as_view())

    first, second = post(api), post(api)

    assert first.status_code == 201
    assert_equal(first, second)
    if finalize is header_added:
        assert second["X-Finalized"] == "1"
    else:
        assert set(first.json()) == {"data"}
        assert set(first.json()["data"]) == {"id", "amount", "reference"}
    assert second.data == first.json()


def test_an_error_in_finalize_response_rolls_back(api, serve):
    """It belongs to the answer: what cannot be answered is not done."""

    def finalize_response(self, request, response, *args, **kwargs):
        if response.status_code == 201:
            raise LookupError
        return APIView.finalize_response(self, request, response, *args, **kwargs)

    serve(drf_class(make_payment, finalize_response=finalize_response))

    assert post(api).status_code == 500
    assert not Payment.objects.exists()


def test_the_browsable_api(user, serve, settings):
    """
    A form that a browser posts, by session and CSRF token, is answered with a page, which is rendered in the
    transaction and is the retry's as well.
    """

    class View(IdempotencyMixin, generics.ListCreateAPIView):
        authentication_classes = [SessionAuthentication]
        renderer_classes = [renderers.JSONRenderer, renderers.BrowsableAPIRenderer]
        queryset = Payment.objects.order_by("pk")
        serializer_class = PaymentSerializer

    serve(View.as_view())
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE["csrf"]]
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(user)
    page = client.get(PATH, headers={"Accept": "text/html"})

    def send():
        return client.post(
            PATH,
            {"amount": "10", "reference": "form", "csrfmiddlewaretoken": client.cookies["csrftoken"].value},
            headers={"Idempotency-Key": "k", "Accept": "text/html"},
        )

    first, second = send(), send()

    assert page.status_code == 200
    assert (first.status_code, Payment.objects.count()) == (201, 1)
    assert b"<html" in first.content
    assert b"form" in first.content
    assert_equal(first, second)


def test_a_replay_runs_nothing_of_the_view(api, serve):
    """No handler, no serializer, no renderer: the record is enough."""
    rendered = []

    class Renderer(renderers.JSONRenderer):
        def render(self, *args, **kwargs):
            rendered.append(1)
            return super().render(*args, **kwargs)

    serve(drf_class(make_payment, renderer_classes=[Renderer]))

    for _ in range(3):
        assert post(api).status_code == 201
    assert rendered == [1]


def test_a_plain_replay_knows_where_it_leads(browser, serve):
    """A replayed redirect has `url`, as Django's own has, and test clients can follow it."""
    serve(
        plain(lambda request: HttpResponseRedirect("/plain-class/")),
    )

    assert post(browser).url == "/plain-class/"
    response = post(browser)
    assert response.url == "/plain-class/"
    followed = post(browser, follow=True)
    assert followed.json() == {"payments": 0}
    assert followed.redirect_chain == [("/plain-class/", 302)]
