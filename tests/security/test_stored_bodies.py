"""A stored body that attacks the operator who opens it: on the page it is text, as a download it is a file."""

import base64
from html.parser import HTMLParser
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from tests.app.serving import post
from tests.operations.admin_urls import urlpatterns as admin_urls
from tests.operations.pages import page

SCRIPT = "<script>alert(1)</script>"

# Media type and body.
BODIES: dict[str, tuple[str, bytes]] = {
    "HTML": ("text/html", f"<!doctype html><body onload=alert(1)>{SCRIPT}".encode()),
    "HTML that leaves its place": ("text/html", f"</pre></div></form></template></title>{SCRIPT}".encode()),
    "HTML in UTF-16": ("text/html; charset=utf-16", SCRIPT.encode("utf-16")),
    "HTML in UTF-7": ("text/html; charset=utf-7", b"+ADw-script+AD4-alert(1)+ADw-/script+AD4-"),
    "HTML in a charset of two bytes": ("text/html; charset=iso-2022-jp", b"\x1b$B<script>alert(1)</script>"),
    "SVG": ("image/svg+xml", f'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">{SCRIPT}</svg>'.encode()),
    "XML": ("application/xml", b'<?xml version="1.0"?><?xml-stylesheet href="javascript:alert(1)"?><a/>'),
    "JavaScript": ("application/javascript", b"alert(1)//</script><img src=x onerror=alert(1)>"),
    "JSON": ("application/json", b'{"</script><script>alert(1)</script>": "<img src=x onerror=alert(1)>"}'),
    "an attribute's end": ("text/plain", b"\" onmouseover=alert(1) x=\"' onmouseover=alert(1) x='"),
    "a template": ("text/plain", b"{{ settings.SECRET_KEY }}{% load static %}${7*7}"),
    "no type": ("", SCRIPT.encode()),
    "a type that is markup": (f'text/html;"{SCRIPT}', SCRIPT.encode()),
}
HEADERS = {
    "Content-Disposition": 'inline; filename="a.html"',
    "Content-Security-Policy": "script-src *",
    "Location": "javascript:alert(1)",
    "Refresh": "0; url=javascript:alert(1)",
    "X-Content-Type-Options": "",
    "X-Markup": f"\"'>{SCRIPT}",
}


@idempotent
def store(request: HttpRequest) -> HttpResponse:
    """Answers with what the client sends."""
    response = HttpResponse(
        base64.b64decode(request.headers["X-Body"]), status=201, content_type=request.headers["X-Type"] or None
    )
    for name, value in HEADERS.items():
        response[name] = value
    return response


class Structure(HTMLParser):
    """The elements of a page, and the attributes that make one do something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        acting = [(name, value) for name, value in attrs if name.startswith("on") or name in ("src", "style", "srcdoc")]
        unsafe = [value for name, value in attrs if name in ("href", "action") and "javascript:" in (value or "")]
        self.found.append((tag, acting, unsafe))


def structure(response: Any) -> list[Any]:
    parser = Structure()
    parser.feed(response.content.decode())
    parser.close()
    return parser.found


@pytest.fixture
def stored(client_with_urls):
    """Have a body stored by a request, and get its record."""

    def stored(content_type: str, body: bytes) -> IdempotencyRecord:
        asked = {"X-Type": content_type, "X-Body": base64.b64encode(body).decode()}
        IdempotencyRecord.objects.all().delete()
        response = post(client_with_urls, url="/store/", headers=asked)
        assert (response.status_code, response.content) == (201, body)
        return IdempotencyRecord.objects.get()

    return stored


@pytest.fixture
def client_with_urls(settings, admin_client):
    settings.ROOT_URLCONF = (path("store/", store), *admin_urls)
    return admin_client


@pytest.mark.django_db
@pytest.mark.parametrize("kind", BODIES)
def test_a_stored_body_does_nothing(admin_client, stored, kind):
    """
    Each page of its record is built as that of a harmless one: no element and no handler more. Its download is a file,
    even if the stored answer's headers say otherwise: no browser opens or sniffs it.
    """
    content_type, body = BODIES[kind]
    harmless = stored(content_type if kind != "a type that is markup" else "text/html", b"x")
    pages = [page(name, harmless) for name in ("change", "history", "free")] + [page("changelist")]
    expected = [structure(admin_client.get(url)) for url in pages]

    record = stored(content_type, body)
    found = [structure(admin_client.get(url)) for url in pages]
    download = admin_client.get(page("body", record))

    assert record.pk == harmless.pk
    assert found == expected
    assert download.content == body
    assert download["Content-Type"] == "application/octet-stream"
    assert download["Content-Disposition"].startswith(f'attachment; filename="{str(record)[:16]}.')
    assert download["Content-Disposition"].rpartition(".")[2] in ('json"', 'txt"', 'bin"')
    assert download["X-Content-Type-Options"] == "nosniff"
    assert download["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert not {"Location", "Refresh", "X-Markup"} & set(download.headers)
