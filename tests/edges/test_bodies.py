"""Request bodies: what counts in the fingerprint, and that taking it takes nothing from whoever reads the body next."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.db import connection
from django.http import JsonResponse
from django.middleware.csrf import get_token
from django.test import Client
from django.urls import path
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.decorators import api_view
from rest_framework.parsers import FileUploadParser, FormParser, JSONParser, MultiPartParser
from rest_framework.test import APIClient

from django_idempotency import fingerprints
from django_idempotency.exceptions import BodyUnreadable
from django_idempotency.models import IdempotencyRecord
from tests.app.serving import drf, drf_class, is_replay, plain, post
from tests.app.views import answer, make_payment
from tests.conftest import authenticated

pytestmark = pytest.mark.django_db

LARGE = 3 * 1024 * 1024  # bytes: more than Django keeps in memory of an upload, and than `request.body` takes


def multipart(*parts: tuple, boundary: str = "one") -> dict:
    """A form of (name, value) and (name, file name, content type, content), as arguments of `client.generic`."""
    lines = []
    for name, *value in parts:
        if len(value) == 1:
            head, content = f'form-data; name="{name}"', value[0].encode()
        else:
            head = f'form-data; name="{name}"; filename="{value[0]}"\r\nContent-Type: {value[1]}'
            content = value[2]
        lines += [f"--{boundary}\r\nContent-Disposition: {head}\r\n\r\n".encode(), content, b"\r\n"]
    lines.append(f"--{boundary}--\r\n".encode())
    return {"data": b"".join(lines), "content_type": f"multipart/form-data; boundary={boundary}"}


def send(client, form: dict, *, method: str = "POST", **extra):
    headers = {"Idempotency-Key": "k", **extra.pop("headers", {})}
    return client.generic(method, "/act/", form["data"], form["content_type"], headers=headers, **extra)


RECEIPT = ("receipt", "receipt.txt", "text/plain", b"ten euros")


def echo(request):
    """Answer with everything that the form held, however the framework gives it."""
    data, files = (request.data, request.FILES) if hasattr(request, "data") else (request.POST, request.FILES)
    fields = {name: values for name, values in data.lists() if name not in files}
    content = {name: [(file.name, file.content_type, file.size, file.read(20).decode()) for file in files.getlist(name)]
               for name in files}  # fmt: skip
    return answer(request, {"fields": fields, "files": content})


# --- what counts ---


def test_multipart_with_another_boundary_is_replayed(protect, client, serve):
    """Clients draw the boundary anew for each attempt."""
    serve(protect(echo))
    form = [("amount", "10"), ("tag", "a"), ("tag", "b"), RECEIPT]

    first = send(client, multipart(*form, boundary="one"))
    second = send(client, multipart(*form, boundary="another"))

    assert first.status_code == 201
    assert first.json() == {
        "fields": {"amount": ["10"], "tag": ["a", "b"]},
        "files": {"receipt": [["receipt.txt", "text/plain", 9, "ten euros"]]},
    }
    assert is_replay(second)
    assert second.content == first.content


OTHER_FORMS = {
    "field": [("amount", "11"), RECEIPT],
    "field's name": [("amounts", "10"), RECEIPT],
    "one more field": [("amount", "10"), ("amount", "10"), RECEIPT],
    "no file": [("amount", "10")],
    "file's content": [("amount", "10"), ("receipt", "receipt.txt", "text/plain", b"two euros")],
    "file's name": [("amount", "10"), ("receipt", "other.txt", "text/plain", b"ten euros")],
    "file's type": [("amount", "10"), ("receipt", "receipt.txt", "text/html", b"ten euros")],
    "file's field": [("amount", "10"), ("invoice", "receipt.txt", "text/plain", b"ten euros")],
    "a file as field": [("amount", "10"), ("receipt", "ten euros")],
    "one more file": [("amount", "10"), RECEIPT, RECEIPT],
}


@pytest.mark.parametrize("other", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_another_form_is_another_request(protect, client, serve, other):
    """Fields and files count whole: names, values, file names, types, contents, and how many there are."""
    serve(protect(echo))

    assert send(client, multipart(("amount", "10"), RECEIPT)).status_code == 201
    assert send(client, multipart(*other)).status_code == 422
    assert is_replay(send(client, multipart(("amount", "10"), RECEIPT, boundary="again")))


def test_the_order_of_the_fields_counts(protect, client, serve):
    """Values of one name are a list, whose order is its meaning."""
    serve(protect(echo))

    assert send(client, multipart(("tag", "a"), ("tag", "b"))).status_code == 201
    assert send(client, multipart(("tag", "b"), ("tag", "a"))).status_code == 422


@pytest.mark.parametrize(
    "content_type", ["text/csv", "application/octet-stream", "application/xml", "no type at all", ""]
)
def test_any_media_type_is_fingerprinted(protect, client, serve, content_type):
    """The raw bytes count, and there is no 415 of ours: a handler that reads no data needs no parser."""
    serve(protect(lambda request: answer(request, {"done": True})))
    one, other = ({"data": data, "content_type": content_type} for data in (b"a;b\0\xff", b"a;c\0\xff"))

    assert send(client, one).status_code == 201
    assert is_replay(send(client, one))
    assert send(client, other).status_code == 422


def test_an_unsupported_media_type_is_the_views_own_415(api, serve):
    """A handler that asks for data it has no parser for gets DRF's error, and the key is free."""
    serve(drf(make_payment))

    response = send(api, {"data": b"a;b", "content_type": "text/csv"})

    assert response.status_code == 415
    assert not IdempotencyRecord.objects.exists()


MALFORMED = {
    "no boundary": {"data": b"amount=10", "content_type": "multipart/form-data"},
    "cut off": {"data": b"--one\r\nContent-Disposition: form-da", "content_type": "multipart/form-data; boundary=one"},
    "no form": {"data": b"amount=10", "content_type": "multipart/form-data; boundary=one"},
    "bad boundary": {"data": b"--\xff", "content_type": 'multipart/form-data; boundary="\xe9"'},
}


@pytest.mark.parametrize("form", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_form_is_the_views_to_refuse(edge, client, serve, form):
    """It gets the answer that the same view gives unprotected, and takes its key to nothing."""
    serve({"drf": api_view(["POST"]), "plain": lambda view: view}[edge](echo))
    unprotected = send(client, form)

    serve({"drf": drf, "plain": plain}[edge](echo))
    protected = send(client, form)

    assert (protected.status_code, protected.content) == (unprotected.status_code, unprotected.content)
    assert IdempotencyRecord.objects.count() == (1 if protected.status_code == 201 else 0)


def test_a_body_that_is_too_large_for_the_view_is_refused_as_without_us(protect, client, serve):
    """`DATA_UPLOAD_MAX_MEMORY_SIZE` stays the project's limit, and ends in Django's own 400."""
    serve(protect(lambda request: answer(request, {"length": len(getattr(request, "_request", request).body)})))

    response = send(client, {"data": b"x" * LARGE, "content_type": "text/plain"})

    assert response.status_code == 400
    assert not IdempotencyRecord.objects.exists()


def test_a_large_body_is_fingerprinted_beyond_djangos_limit(protect, client, serve):
    """A handler that reads a stream takes what it likes; two large bodies are told apart."""
    serve(protect(lambda request: answer(request, {"length": len(getattr(request, "_request", request).read())})))

    def generic(data):
        return client.generic("POST", "/act/", data, "text/plain", headers={"Idempotency-Key": "k"})

    first = generic(b"x" * LARGE)
    assert (first.status_code, first.json()) == (201, {"length": LARGE})
    assert is_replay(generic(b"x" * LARGE))
    assert generic(b"x" * (LARGE - 1) + b"y").status_code == 422


# --- uploads ---


@pytest.mark.parametrize("size", [9, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_uploads_are_parsed_after_the_fingerprint(edge, client, serve, size, method):
    """The handler finds its files whole, kept in memory or in a file, as without protection."""

    def handler(request):
        if hasattr(request, "data") or request.method == "POST":
            files = request.FILES
        else:
            _, files = request.parse_file_upload(request.META, request)  # as a plain view reads a PATCH
        file = files["receipt"]
        content = b"".join(file.chunks())
        file.close()
        return answer(request, {"size": len(content), "right": content == b"x" * size, "kept": type(file).__name__})

    serve({"drf": drf, "plain": plain}[edge](handler))
    form = [("amount", "10"), ("receipt", "receipt.txt", "text/plain", b"x" * size)]

    first = send(client, multipart(*form), method=method)
    second = send(client, multipart(*form, boundary="another"), method=method)

    kept = "InMemoryUploadedFile" if size < LARGE else "TemporaryUploadedFile"
    assert first.json() == {"size": size, "right": True, "kept": kept}
    assert is_replay(second)
    assert second.content == first.content
    form[1] = ("receipt", "receipt.txt", "text/plain", b"x" * (size - 1) + b"y")
    assert send(client, multipart(*form), method=method).status_code == 422


@pytest.mark.parametrize("size", [9, LARGE], ids=["small", "large"])
def test_upload_handlers_set_in_the_view(protect, client, serve, size):
    """The fingerprint processes no upload, so that a view may still choose where its files go."""

    def handler(request):
        django_request = getattr(request, "_request", request)
        django_request.upload_handlers = [TemporaryFileUploadHandler(django_request)]
        file = request.FILES["receipt"]
        return answer(request, {"kept": type(file).__name__, "size": file.size})

    serve(protect(handler))
    form = [("receipt", "receipt.txt", "text/plain", b"x" * size)]

    first = send(client, multipart(*form))

    assert first.json() == {"kept": "TemporaryUploadedFile", "size": size}
    assert is_replay(send(client, multipart(*form, boundary="another")))


def test_an_upload_of_one_file_as_the_body(api, serve):
    """DRF's `FileUploadParser` reads the body as one file."""

    def handler(request):
        file = request.data["file"]
        return answer(request, {"name": file.name, "size": len(file.read())})

    serve(drf_class(handler, parser_classes=[FileUploadParser]))

    def upload(content):
        disposition = {"Content-Disposition": "attachment; filename=receipt.txt"}
        return send(api, {"data": content, "content_type": "text/plain"}, headers=disposition)

    assert upload(b"ten euros").json() == {"name": "receipt.txt", "size": 9}
    assert is_replay(upload(b"ten euros"))
    assert upload(b"two euros").status_code == 422


@pytest.mark.slow
@pytest.mark.parametrize("read_before", ["unread", "read by CSRF"])
def test_an_upload_of_100_mb_costs_no_second_copy_in_memory(transactional_db, read_before):
    """The peak memory of a protected view is less than 5 MB above that of the same view unprotected."""

    def peak(protection: str) -> int:
        process = subprocess.run(
            [sys.executable, "-m", "tests.edges.upload", protection, read_before, connection.settings_dict["NAME"]],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert process.returncode == 0, process.stderr.decode()
        return json.loads(process.stdout)["peak"]

    unprotected, protected = peak("unprotected"), peak("protected")

    assert protected - unprotected < 5 * 1024 * 1024
    assert IdempotencyRecord.objects.count() == 1


# --- read by somebody else first ---


@pytest.fixture
def csrf(settings):
    """Django's CSRF checks, as a project has them."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]


def session(user, client_class=Client):
    """A client with a session and CSRF checks, and a function that gives a token as the next page would mask it."""
    client = client_class(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(user)
    client.get("/token/")

    return client, lambda: client.get("/token/").json()["token"]


def token_view(request):
    return JsonResponse({"token": get_token(request)})


VIEWS = {"drf": drf_class(echo, authentication_classes=[SessionAuthentication]), "plain": plain(echo)}


def fields_of(response) -> dict:
    fields = response.json()["fields"]
    fields.pop("csrfmiddlewaretoken", None)
    return fields


@pytest.mark.parametrize("size", [9, LARGE], ids=["small", "large"])
def test_multipart_whose_csrf_token_is_in_the_form(edge, user, csrf, serve, size):
    """CSRF has read the form before us, and its field, masked anew for every page, does not count."""
    serve(VIEWS[edge], path("token/", token_view))
    client, token = session(user, APIClient if edge == "drf" else Client)
    tokens = [token(), token()]
    assert tokens[0] != tokens[1]
    receipt = ("receipt", "receipt.txt", "text/plain", b"x" * size)

    responses = [
        send(client, multipart(("csrfmiddlewaretoken", value), ("amount", "10"), receipt, boundary=boundary))
        for value, boundary in zip(tokens, ["one", "another"], strict=True)
    ]

    assert [response.status_code for response in responses] == [201, 201]
    assert fields_of(responses[0]) == {"amount": ["10"]}
    assert responses[0].json()["files"]["receipt"][0][2] == size
    assert is_replay(responses[1])
    assert responses[1].content == responses[0].content
    form = multipart(("csrfmiddlewaretoken", tokens[0]), ("amount", "11"), receipt)
    assert send(client, form).status_code == 422


def test_the_token_may_move_from_the_form_to_a_header(edge, user, csrf, serve):
    """The same form is the same request, with Django's field or without."""
    serve(VIEWS[edge], path("token/", token_view))
    client, token = session(user, APIClient if edge == "drf" else Client)

    first = send(client, multipart(("csrfmiddlewaretoken", token()), ("amount", "10"), RECEIPT))
    second = send(client, multipart(("amount", "10"), RECEIPT), headers={"X-CSRFToken": token()})

    assert first.status_code == 201
    assert is_replay(second)


def test_a_request_that_fails_the_csrf_check_is_none_of_ours(edge, user, csrf, serve):
    """403 comes first, for an execution and for a replay."""
    serve(VIEWS[edge], path("token/", token_view))
    client, token = session(user, APIClient if edge == "drf" else Client)
    form = multipart(("amount", "10"))

    assert send(client, form).status_code == 403
    assert send(client, form, headers={"X-CSRFToken": token()}).status_code == 201
    assert send(client, form).status_code == 403


def reading(read):
    """A middleware that reads the body, for requests with the header `X-Read`, and keeps nothing."""

    def middleware_of(get_response):
        def middleware(request):
            if "X-Read" in request.headers:
                read(request)
            return get_response(request)

        return middleware

    return middleware_of


reads_body = reading(lambda request: request.body)  # as one that logs bodies
reads_form = reading(lambda request: request.POST)
reads_stream = reading(lambda request: request.read())


BODIES = {
    "JSON": {"data": b'{"amount": 10}', "content_type": "application/json"},
    "form": {"data": b"amount=10&tag=a&tag=b", "content_type": "application/x-www-form-urlencoded"},
    "multipart": multipart(("amount", "10"), ("tag", "a"), ("tag", "b"), RECEIPT),
    "multipart, large": multipart(("amount", "10"), ("receipt", "r.txt", "text/plain", b"x" * 2_000_000)),
    "text": {"data": b"ten euros", "content_type": "text/plain"},
}


@pytest.mark.parametrize("reader", ["reads_body", "reads_form"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_is_the_same_whether_or_not_a_middleware_has_read_it(protect, client, serve, settings, body, reader):
    """The retry may take another way through the project than the first request."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{reader}"]
    serve(protect(lambda request: answer(request, {"done": True})))

    assert send(client, body).status_code == 201
    assert is_replay(send(client, body, headers={"X-Read": "1"}))
    assert is_replay(send(client, body))
    IdempotencyRecord.objects.all().delete()
    assert not is_replay(send(client, body, headers={"X-Read": "1"}))
    assert is_replay(send(client, body))


def test_a_body_that_is_gone_is_an_error_that_names_the_remedy(protect, client, serve, settings):
    """Without bytes nobody can tell two requests apart, and a large form is not kept: 500, and nothing runs."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.reads_stream"]
    serve(protect(lambda request: pytest.fail("the handler ran")))

    response = send(client, BODIES["multipart, large"], headers={"X-Read": "1"})

    assert response.status_code == 500
    assert isinstance(response.exc_info[1], BodyUnreadable)
    assert "read `request.body`" in str(response.exc_info[1])


def test_a_body_that_is_gone_is_no_matter_to_a_fingerprint_of_ones_own(protect, client, serve, settings):
    """The remedy that the error names."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.reads_stream"]
    serve(protect(lambda request: answer(request, {}), fingerprint=lambda request: b"whatever"))

    assert send(client, BODIES["multipart, large"], headers={"X-Read": "1"}).status_code == 201
    assert is_replay(send(client, BODIES["multipart, large"], headers={"X-Read": "1"}))


class ReadsData(TokenAuthentication):
    """An authenticator that looks into the data, as those of signed requests do."""

    def authenticate(self, request):
        request.data  # noqa: B018 parses
        return super().authenticate(request)


DATA = {
    **{name: body for name, body in BODIES.items() if name != "text"},
    "empty object": {"data": b"{}", "content_type": "application/json"},
    "empty list": {"data": b"[]", "content_type": "application/json"},
    "null": {"data": b"null", "content_type": "application/json"},
    "false": {"data": b"false", "content_type": "application/json"},
    "empty form": {"data": b"&", "content_type": "application/x-www-form-urlencoded"},
}


@pytest.mark.parametrize("body", DATA.values(), ids=DATA)
def test_an_authenticator_that_has_read_the_data(user, serve, body):
    """What DRF has parsed before us counts like the bytes, which its older versions do not keep."""
    attributes = {"authentication_classes": [ReadsData], "parser_classes": [JSONParser, FormParser, MultiPartParser]}
    serve(drf_class(lambda request: answer(request, {"data": str(request.data)}), **attributes))
    api = authenticated(user)

    first, second = send(api, body), send(api, body)

    assert first.status_code == 201, first.exc_info
    assert is_replay(second)
    assert second.content == first.content
    other = {**body, "data": body["data"].replace(b"10", b"11")}
    assert send(api, other).status_code == (201 if other == body else 422)


# --- read by the project's own callables ---


def id_of_the_event(request):
    data = request.data if hasattr(request, "data") else json.loads(request.body)
    return data["id"]


@pytest.mark.parametrize("option", ["key", "scope", "operation"])
def test_a_callable_that_reads_the_data(protect, client, serve, option):
    """A webhook's sender puts its id into the body: to read it there takes nothing away."""

    def handler(request):
        return answer(request, {"id": id_of_the_event(request)})

    serve(protect(handler, **{option: id_of_the_event}))

    first = post(client, {"id": "evt-1", "amount": 10})
    assert first.status_code == 201
    assert is_replay(post(client, {"id": "evt-1", "amount": 10}))
    assert post(client, {"id": "evt-1", "amount": 11}).status_code == 422


def test_a_callable_that_reads_the_form(api, serve):
    """The same where the id is a field beside an upload."""
    serve(drf(echo, key=lambda request: request.data["id"]))

    assert send(api, multipart(("id", "evt-1"), RECEIPT)).status_code == 201
    assert is_replay(send(api, multipart(("id", "evt-1"), RECEIPT, boundary="another")))
    assert send(api, multipart(("id", "evt-1"), ("amount", "1"), RECEIPT)).status_code == 422


@pytest.mark.parametrize("by", ["key", "authenticator", "nobody"])
def test_fingerprints_json_after_the_data_was_read(user, serve, by):
    """Who has read the data before makes no difference to a fingerprint of its members."""
    key = (lambda request: request.data["id"]) if by == "key" else None
    options = {"key": key, "fingerprint": fingerprints.json(exclude=["sent_at"])}
    authenticators = [ReadsData] if by == "authenticator" else [TokenAuthentication]
    serve(drf_class(lambda request: answer(request, request.data), options, authentication_classes=authenticators))
    api = authenticated(user)

    assert post(api, {"id": "evt-1", "amount": 10, "sent_at": 1}).status_code == 201
    assert is_replay(post(api, {"id": "evt-1", "sent_at": 2, "amount": 10}))
    assert post(api, {"id": "evt-1", "amount": 11}).status_code == 422


def test_large_json_is_the_views_to_take_or_refuse(edge, client, serve):
    """What the project's limits say of an unprotected view holds for a protected one."""

    def handler(request):
        return answer(request, {"items": len(id_of_the_event(request))})

    body = {"data": json.dumps({"id": ["x"] * 700_000}).encode(), "content_type": "application/json"}
    serve({"drf": api_view(["POST"]), "plain": lambda view: view}[edge](handler))
    unprotected = send(client, body)

    serve({"drf": drf, "plain": plain}[edge](handler))
    protected = send(client, body)

    assert (protected.status_code, protected.content) == (unprotected.status_code, unprotected.content)
    if protected.status_code == 201:
        assert is_replay(send(client, body))


MULTIPART_BODY = (
    b'--b\r\nContent-Disposition: form-data; name="amount"\r\n\r\n10\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\ncontent\r\n--b--\r\n'
)


def stream(client, body, content_type, **extra):
    """POST what can be read from *body*."""
    meta = {"CONTENT_TYPE": content_type, "HTTP_IDEMPOTENCY_KEY": "k", "wsgi.input": body}
    return client.generic("POST", "/act/", b"", content_type, **meta, **extra)


class HangsUp:
    """A client that is gone in the middle of its upload."""

    def read(self, size=-1):
        raise ConnectionResetError("gone")

    readline = read


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("length", [100, LARGE])
def test_a_client_that_hangs_up_while_it_sends(protect, client, serve, content_type, length):
    """Nothing runs, and nothing is claimed."""
    serve(protect(lambda request: pytest.fail("the handler ran")))

    response = stream(client, HangsUp(), content_type, CONTENT_LENGTH=str(length))

    assert (response.status_code, response.json()["code"]) == (400, "body-incomplete")
    assert not IdempotencyRecord.objects.exists()


CUT_OFF = {
    "json": ("application/json", b'{"amount": 10}'),
    "csv": ("text/csv", b"a,1\n" * 500),
    "form": ("application/x-www-form-urlencoded", b"amount=10&note=x"),
    "multipart": ("multipart/form-data; boundary=b", MULTIPART_BODY),
    "large csv": ("text/csv", b"a,1\n" * LARGE),
    "large multipart": ("multipart/form-data; boundary=b", MULTIPART_BODY.replace(b"content", b"x" * LARGE)),
}


@pytest.mark.parametrize("reader", [None, "reads_body", "reads_form", "reads_stream"])
@pytest.mark.parametrize("own_fingerprint", [False, True])
@pytest.mark.parametrize("body", CUT_OFF.values(), ids=CUT_OFF)
def test_a_body_that_did_not_arrive_whole(protect, client, serve, settings, body, own_fingerprint, reader):
    """gunicorn hands a view the half of a body. Nothing runs, and the honest retry is not another request."""
    if reader is not None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{reader}"]
    content_type, content = body
    options = {"fingerprint": lambda request: b"own"} if own_fingerprint else {}
    serve(protect(lambda request: answer(request, {}), **options))

    def act(sent):
        return stream(client, BytesIO(sent), content_type, CONTENT_LENGTH=str(len(content)), HTTP_X_READ="1")

    half = act(content[: len(content) // 2])

    assert half.status_code == 400
    assert not IdempotencyRecord.objects.exists()
    if reader is None:
        assert half.json()["code"] == "body-incomplete"
        assert act(content).status_code == 201
        assert is_replay(act(content))


@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize("content_type", ["text/csv", "multipart/form-data; boundary=b"])
def test_a_body_without_a_length(protect, client, serve, content_type, size):
    """Django takes it for an empty one, so that a handler reads it past Django; another one is another request."""

    def handler(request):
        return answer(request, {"bytes": len(request.META["wsgi.input"].read())})

    serve(protect(handler))

    def act(sent, terminated=True):
        extra = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": terminated}
        return stream(client, BytesIO(sent), content_type, **extra)

    content = MULTIPART_BODY.replace(b"content", b"x" * size) if "multipart" in content_type else b"x" * size

    refused = act(content, terminated=False)
    first, second, other = act(content), act(content), act(content.replace(b"x", b"y", 1))

    assert (refused.status_code, refused.json()["code"]) == (411, "length-required")
    assert (first.status_code, first.json()) == (201, {"bytes": len(content)})
    assert is_replay(second)
    assert (other.status_code, other.json()["code"]) == (422, "key-reused")


OTHER_BODIES = {
    "multipart": BODIES["multipart"],
    "multipart, large": multipart(("receipt", "r.txt", "text/plain", b"x" * LARGE)),
    "form": BODIES["form"],
}


@pytest.mark.parametrize("read", ["unread", "read"])
@pytest.mark.parametrize("body", OTHER_BODIES.values(), ids=OTHER_BODIES)
def test_fingerprints_json_of_other_bodies(user, serve, settings, body, read):
    """A project may set it for all its views: uploads and forms then count as they always do."""
    authenticators = [ReadsData] if read == "read" else [TokenAuthentication]
    settings.IDEMPOTENCY = {"FINGERPRINT": fingerprints.json(exclude=["sent_at"])}
    serve(drf_class(lambda request: answer(request, {"done": True}), authentication_classes=authenticators))
    api = authenticated(user)
    again = {**body, "data": body["data"].replace(b"--one", b"--two"), "content_type": body["content_type"]}
    if "multipart" in body["content_type"]:
        again["content_type"] = "multipart/form-data; boundary=two"

    assert send(api, body).status_code == 201
    assert is_replay(send(api, again))
    other = {**body, "data": body["data"].replace(b"10", b"11").replace(b"xxx\r", b"xxy\r")}
    assert other != body
    assert send(api, other).status_code == 422
