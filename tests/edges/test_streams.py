"""A body that was read as a stream before us, by whatever reads it, has the fingerprint of one that nobody has read."""

import csv
import json
from io import BytesIO

import pytest
from rest_framework.authentication import TokenAuthentication
from rest_framework.parsers import BaseParser, FileUploadParser, JSONParser
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from django_idempotency import fingerprints, idempotent
from django_idempotency.adapters.wsgi_input import ObservedInput
from django_idempotency.models import IdempotencyRecord
from tests.app.serving import is_replay
from tests.app.views import answer
from tests.conftest import authenticated
from tests.edges.test_bodies import BODIES, LARGE, RECEIPT, multipart, send

pytestmark = pytest.mark.django_db

READ = {"X-Read": "1"}
FORM = "application/x-www-form-urlencoded"


def reading(read):
    """A middleware that lets *read* have the requests with the header `X-Read`, and keeps nothing."""

    def middleware(get_response):
        def call(request):
            if "X-Read" in request.headers:
                read(request)
            return get_response(request)

        return call

    return middleware


def swallowing(request):
    """Read past Django, and take an error of the server's for the end."""
    try:
        request.META["wsgi.input"].read(1000)
    except Exception:  # noqa: S110 this is the mistake that is tested
        pass


reads_all = reading(lambda request: request.read())
reads_some = reading(lambda request: request.read(5))
reads_lines = reading(lambda request: [*request])
reads_a_line = reading(lambda request: request.readline())
reads_input = reading(lambda request: request.META["wsgi.input"].read(10))
reads_input_lines = reading(lambda request: request.META["wsgi.input"].readlines())
swallows = reading(swallowing)

READERS = ["reads_all", "reads_some", "reads_lines", "reads_a_line"]
STREAMS = {
    **{name: body for name, body in BODIES.items() if name != "multipart, large"},
    "lines": {"data": b"a;1\n" * 10_000, "content_type": "text/csv"},
    "large": {"data": b"a;1\n" * (LARGE // 4), "content_type": "text/csv"},
    "gzip": {"data": b"\x1f\x8b\x08\x00time\x02\x03" + b"x" * 50, "content_type": "text/plain"},
    "large gzip": {"data": b"\x1f\x8b\x08\x00time\x02\x03" + b"x" * LARGE, "content_type": "text/plain"},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS)
def test_a_body_that_a_middleware_has_read_as_a_stream(protect, client, serve, settings, body, reader):
    """The retry may take another way through the project than the first request, in both directions."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{reader}"]
    serve(protect(lambda request: answer(request, {"done": True})))
    headers = {"Content-Encoding": "gzip"} if body["data"].startswith(b"\x1f\x8b") else {}

    assert send(client, body, headers=headers).status_code == 201
    assert is_replay(send(client, body, headers=headers | READ))
    other = body["data"].replace(b"1", b"2").replace(b"euros", b"cents").replace(b"xx", b"xy")
    assert send(client, {**body, "data": other}, headers=headers | READ).status_code == 422
    IdempotencyRecord.objects.all().delete()
    assert not is_replay(send(client, body, headers=headers | READ))
    assert is_replay(send(client, body, headers=headers))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("padding", [0, 500_000, 2_000_000], ids=["small", "large", "larger than is kept"])
def test_the_csrf_field_counts_nowhere(protect, client, serve, settings, padding, reader):
    """Wherever it stands in the form, and whoever has read the form."""
    if padding < 1_000_000:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{reader}"]
    serve(protect(lambda request: answer(request, {"done": True})))

    def form(token):
        return {"data": b"note=" + b"x" * padding + b"&csrfmiddlewaretoken=" + token, "content_type": FORM}

    assert send(client, form(b"one")).status_code == 201
    assert is_replay(send(client, form(b"other"), headers=READ))


class CSVParser(BaseParser):
    """A parser of the project's own, as DRF's documentation shows it."""

    media_type = "text/csv"

    def parse(self, stream, media_type=None, parser_context=None):
        return [*csv.reader(stream.read().decode().splitlines())]


class OpaqueParser(BaseParser):
    """A parser whose data is no JSON."""

    media_type = "application/octet-stream"

    def parse(self, stream, media_type=None, parser_context=None):
        return {"content": stream.read()}


class OwnJSONParser(JSONParser):
    """JSON of a kind of its own, read through DRF's `request.stream`."""

    media_type = "application/vnd.api+json"

    def parse(self, stream, media_type=None, parser_context=None):
        return json.loads(parser_context["request"].stream.read())


class LooksIntoData(TokenAuthentication):
    """An authenticator that looks into the data of some requests."""

    def authenticate(self, request):
        if "X-Read" in request.headers:
            request.data  # noqa: B018 parses
        return super().authenticate(request)


class ReadsStream(BaseThrottle):
    """A throttle that weighs the body, and reads it as a stream."""

    def allow_request(self, request, view):
        return "X-Weigh" not in request.headers or bool(request.stream.read())


class Parsed(APIView):
    authentication_classes = [LooksIntoData]
    parser_classes = [CSVParser, OpaqueParser, OwnJSONParser, FileUploadParser]
    throttle_classes = [ReadsStream]

    @idempotent
    def post(self, request):
        return answer(request, {"done": True})


OWN = {
    "csv": {"data": b"a;1\r\nb;2\r\n", "content_type": "text/csv"},
    "opaque": {"data": b"a\0b", "content_type": "application/octet-stream"},
    "own json": {"data": b'{"a": 1}', "content_type": "application/vnd.api+json"},
    "file": {"data": b"a picture", "content_type": "image/png"},
    "large": {"data": b"x" * LARGE, "content_type": "application/octet-stream"},
}


@pytest.mark.parametrize("header", ["X-Read", "X-Weigh"])
@pytest.mark.parametrize("body", OWN.values(), ids=OWN)
def test_a_body_that_a_parser_of_the_projects_own_has_read(user, serve, body, header):
    """The authenticator or the throttle reads it in some requests: their retries may come by another way."""
    serve(Parsed.as_view())
    api = authenticated(user)
    headers = {header: "1", "Content-Disposition": "attachment; filename=f"}

    first = send(api, body, headers={"Content-Disposition": "attachment; filename=f"})
    assert first.status_code == 201, first.content
    assert is_replay(send(api, body, headers=headers))
    assert send(api, {**body, "data": body["data"] + b" "}, headers=headers).status_code == 422


def test_a_key_in_a_body_that_a_parser_of_the_projects_own_reads(user, serve):
    """The callable reads before the fingerprint is taken, and may be the first who does."""

    class View(Parsed):
        @idempotent(key=lambda request: request.data[0][0])
        def post(self, request):
            return answer(request, request.data)

    serve(View.as_view())
    api = authenticated(user)

    assert send(api, OWN["csv"]).json() == [["a;1"], ["b;2"]]
    assert is_replay(send(api, OWN["csv"], headers=READ))
    assert send(api, {**OWN["csv"], "data": b"a;1\r\nb;3\r\n"}).status_code == 422


def test_members_of_a_body_that_was_read_as_a_stream(user, serve):
    """`fingerprints.json` finds the JSON where a parser of the project's own has read it, and where none is."""

    class View(Parsed):
        @idempotent(fingerprint=fingerprints.json(exclude=["sent_at"]))
        def post(self, request):
            return answer(request, {"done": True})

    serve(View.as_view())
    api = authenticated(user)

    def own(data):
        return {"data": data, "content_type": OWN["own json"]["content_type"]}

    assert send(api, own(b'{"a": 1, "sent_at": 1}')).status_code == 201
    assert is_replay(send(api, own(b'{"sent_at": 2, "a": 1.0}'), headers=READ))
    assert is_replay(send(api, own(b'{"sent_at": 3, "a": 1e0}'), headers={"X-Weigh": "1"}))
    assert send(api, own(b'{"a": 2}'), headers=READ).status_code == 422


@pytest.mark.parametrize("read", ["reads_some", "reads_all"])
def test_large_json_that_was_read_as_a_stream(protect, client, serve, settings, read):
    """It is compared by its bytes, like any that is too large for Django."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{read}"]
    serve(protect(lambda request: answer(request, {"done": True}), fingerprint=fingerprints.json()))
    body = {"data": json.dumps(["x"] * 700_000).encode(), "content_type": "application/json"}

    assert send(client, body).status_code == 201
    assert is_replay(send(client, body, headers=READ))


@pytest.mark.parametrize("reader", ["reads_input", "reads_input_lines"])
@pytest.mark.parametrize("body", [OWN["csv"], multipart(("amount", "10"), RECEIPT)], ids=["csv", "multipart"])
def test_a_body_without_a_length_of_which_something_was_read(protect, client, serve, settings, body, reader):
    """Another payment is not the first one, although the rest of its body is the same."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{reader}"]
    serve(protect(lambda request: answer(request, {"done": True})))

    def act(data, **headers):
        chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "wsgi.input": BytesIO(data)}
        return send(client, {"data": b"", "content_type": body["content_type"]}, headers=headers,
                    CONTENT_TYPE=body["content_type"], **chunked)  # fmt: skip

    assert act(body["data"]).status_code == 201
    assert is_replay(act(body["data"], **READ))
    other = body["data"].replace(b"1", b"2").replace(b"euros", b"cents")
    assert act(other, **READ).status_code == 422


class CutOff:
    """A server's stream that fails once, and is at its end from then on."""

    def __init__(self, error):
        self.error = error

    def read(self, size=-1):
        error, self.error = self.error, None
        if error:
            raise error
        return b""

    readline = read


class NotOfTheSystem(Exception):
    """gunicorn's `ChunkMissingTerminator` is no OSError."""


@pytest.mark.parametrize("headers", [{}, READ], ids=["read by us", "read before us"])
@pytest.mark.parametrize("error", [ConnectionResetError(), NotOfTheSystem()])
@pytest.mark.parametrize("length", ["0", "100"], ids=["without a length", "with a length"])
def test_a_server_that_says_only_once_that_the_client_is_gone(protect, client, serve, settings, headers, error, length):
    """Whoever reads first gets the error, and whoever reads after that an end."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.swallows"]
    serve(protect(lambda request: pytest.fail("the handler ran")))
    extra = {"CONTENT_LENGTH": length, "wsgi.input": CutOff(error)}
    if length == "0":
        extra |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}

    response = send(client, BODIES["text"], headers=headers, **extra)

    assert (response.status_code, response.json()["code"]) == (400, "body-incomplete")
    assert not IdempotencyRecord.objects.exists()


def test_an_input_that_is_read_in_a_servers_own_way_is_not_known():
    """A `seek`, or what else a server's stream can do, and what was read is no body any more."""
    observed = ObservedInput(BytesIO(b"ten euros"))
    observed.read(3)
    assert observed.whole().read() == b"ten"

    observed.seek(0)
    observed.read()

    assert observed.whole() is None
    assert observed.hash() is None


def test_a_wrong_argument_is_no_end_of_a_body():
    """A server refuses `read(None)`, and whoever has asked so asks again."""

    class Strict(BytesIO):
        def read(self, size=-1):
            if size is None:
                raise TypeError("size must be an integral type")
            return super().read(size)

    observed = ObservedInput(Strict(b"ten euros"))
    with pytest.raises(TypeError):
        observed.read(None)

    assert observed.read() == b"ten euros"
    assert not observed.is_broken
