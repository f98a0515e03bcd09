"""
Generated keys, bodies, queries and headers: none of them makes a 500 of ours.

`EXAMPLES` says how many there are in all, 2,000 by default.
"""

import logging
import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path, re_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.request import Request
from rest_framework.response import Response

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from tests.app.serving import is_replay

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

EXAMPLES = int(os.environ.get("EXAMPLES", "2000"))
numbers = count()


def share(part: float) -> Callable[[Any], Any]:
    """Run a test for that *part* of the examples."""
    return settings(
        max_examples=max(1, round(EXAMPLES * part)),
        deadline=None,  # a shared machine's pauses are no bug
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@idempotent
def plain_unread(request: HttpRequest) -> HttpResponse:
    """Leaves the body unread, so that the package reads it."""
    return HttpResponse(str(next(numbers)), status=201)


def parse(request: HttpRequest) -> HttpResponse:
    """Form, files and raw bytes, as far as Django gives them."""
    return HttpResponse(f"{len(request.POST)} {len(request.FILES)} {next(numbers)}", status=201)


@api_view(["POST"])
@authentication_classes([])
@permission_classes([])
@idempotent
def drf_parsed(request: Request) -> Response:
    return Response({"type": type(request.data).__name__, "number": next(numbers)}, status=201)


@api_view(["POST"])
@authentication_classes([])
@permission_classes([])
def drf_bare(request: Request) -> Response:
    return Response({"type": type(request.data).__name__}, status=201)


ROUTES = [
    re_path(r"(?s)unread/.*", plain_unread),
    path("plain/", idempotent(parse)),
    path("plain-bare/", parse),
    path("drf/", drf_parsed),
    path("drf-bare/", drf_bare),
]


@pytest.fixture(autouse=True)
def _quiet_routes(serve: Callable[..., None]) -> Iterator[None]:
    """The routes; and no log, which pytest would keep of every refusal."""
    serve(*ROUTES)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def ask(url: str, body: bytes, **meta: str) -> Any:
    """What a request gets; where it was executed, its retry got the same. Afterwards nothing of it is left."""
    client = Client(raise_request_exception=False)
    with transaction.atomic():
        response = client.generic("POST", url, body, **meta)
        assert response.status_code < 500, response.exc_info
        assert not is_replay(response)
        assert IdempotencyRecord.objects.exists() == (response.status_code == 201)
        if response.status_code == 201:
            again = client.generic("POST", url, body, **meta)
            assert is_replay(again)
            assert (again.status_code, again.content) == (201, response.content)
        transaction.set_rollback(True)  # or one transaction would hold thousands of locks
    return response


# --- keys ---

NASTY = [*'\0\r\n\t\x1b\x7f\x85\xa0\xad\xe9\xff "&=;a', "%00", "%ff"]
# What a server makes of a header's bytes.
LATIN_1 = st.one_of(
    st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")),
    st.lists(st.sampled_from(NASTY), max_size=12).map("".join),
)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
PIECES = [*'"\\;=,% \t\r\n\0\xe9aZ', '\\"', ":YQ==:", "?1", "@1", "1.5"]
KEYS = st.one_of(
    LATIN_1,
    PRINTABLE,
    PRINTABLE.map(lambda text: f'"{text}"'),
    st.lists(st.sampled_from(PIECES), max_size=20).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=20).map(lambda pieces: '"' + "".join(pieces) + '"'),
    st.uuids().map(str),
)


@given(key=KEYS)
@share(0.4)
def test_any_key(key):
    """It names an execution, or it is refused with 400."""
    response = ask("/unread/", b"", HTTP_IDEMPOTENCY_KEY=key, HTTP_X_API_KEY=str(next(numbers)))

    assert response.status_code in (201, 400)


# --- bodies ---

TEXTS = st.one_of(st.text(max_size=40), LATIN_1).map(lambda text: text.encode(errors="surrogatepass"))
BOUNDARIES = st.sampled_from(["b", "----x", "b b", '"b"', "", "\xe9", "b" * 80])
MEDIA_TYPES = st.one_of(
    st.sampled_from(
        [
            "application/json",
            "application/json; charset=utf-16",
            "application/json; charset=nonsense",
            "application/x-www-form-urlencoded",
            "application/x-www-form-urlencoded; charset=idna",
            "text/plain",
            "",
            "multipart/form-data",
            "multipart/mixed; boundary=b",
            "multipart/form-data; boundary*=utf-8''b",
            "application/json; charset*=utf-8''%ff",
        ]
    ),
    BOUNDARIES.map(lambda boundary: f"multipart/form-data; boundary={boundary}"),
    LATIN_1.map(lambda text: text[:60]),
)
JSON = st.recursive(
    st.sampled_from([b"null", b"1", b"-1e999", b"NaN", b'"a"', b'"\\ud800"', b"{", b"[", b'"', b"\xff"]),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: b"[" + b",".join(parts) + b"]"),
    max_leaves=10,
)


def part(name: bytes, file_name: bytes, content: bytes, is_file: bool) -> bytes:
    """One part of a form, in whose names anything may stand."""
    file = b'; filename="%b"\r\nContent-Type: text/plain' % file_name if is_file else b""
    return b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, file, content)


PARTS = st.lists(st.builds(part, TEXTS, TEXTS, TEXTS, st.booleans()), max_size=4)
MULTIPART = st.builds(
    lambda *parts: b"".join([*parts[0], parts[1]]), PARTS, st.sampled_from([b"--b--\r\n", b"--b", b""])
)
FORM = st.lists(st.tuples(TEXTS, TEXTS), max_size=6).map(lambda pairs: b"&".join(k + b"=" + v for k, v in pairs))
BODIES = st.one_of(st.binary(max_size=400), JSON, MULTIPART, FORM)


@pytest.mark.filterwarnings("ignore:Support for non-ascii encoding names:DeprecationWarning")  # Django looks them up
@pytest.mark.parametrize("view", ["plain", "drf"])
@given(body=BODIES, media_type=MEDIA_TYPES)
@share(0.2)
def test_any_body(view, body, media_type):
    """What the view can parse is executed, what it cannot is refused as without us; its retry gets the same."""
    meta = {"CONTENT_TYPE": media_type, "CONTENT_LENGTH": str(len(body)), "HTTP_IDEMPOTENCY_KEY": "k"}
    bare = Client(raise_request_exception=False).generic("POST", f"/{view}-bare/", body, **meta)

    if bare.status_code < 500:  # else it is Django's, or the parser's
        response = ask(f"/{view}/", body, **meta, HTTP_X_API_KEY=str(next(numbers)))
        assert response.status_code == bare.status_code


# --- all else that a fingerprint, a scope or a record is made of ---

HOSTS = st.one_of(st.sampled_from(django_settings.ALLOWED_HOSTS), LATIN_1.map(lambda text: text[:40]))


@given(
    rest=LATIN_1, query=LATIN_1, host=HOSTS, credential=LATIN_1, if_match=LATIN_1, request_id=LATIN_1,
    media_type=LATIN_1,
)  # fmt: skip
@share(0.2)
def test_any_path_query_and_headers(rest, query, host, credential, if_match, request_id, media_type):
    """They are digested or stored with any bytes."""
    response = ask(
        "/unread/",
        b"",
        PATH_INFO=f"/unread/{rest}",
        QUERY_STRING=query,
        HTTP_HOST=host,
        CONTENT_TYPE=media_type,
        HTTP_AUTHORIZATION=credential,
        HTTP_IF_MATCH=if_match,
        HTTP_X_REQUEST_ID=request_id,
        HTTP_IDEMPOTENCY_KEY="k",
    )

    assert response.status_code in (201, 400)
