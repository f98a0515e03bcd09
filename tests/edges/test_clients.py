"""Two honest attempts of one request differ in what clients and proxies write anew: they are the same request."""

import gzip
import zlib

import pytest
from django.test import Client

from tests.app.serving import is_replay
from tests.app.views import answer

pytestmark = pytest.mark.django_db

FORM = "application/x-www-form-urlencoded"


def send(body=b"", *, path="/act/", content_type="application/octet-stream", headers=None, **meta):
    client = Client(SERVER_NAME="testserver")
    return client.generic("POST", path, body, content_type, headers={"Idempotency-Key": "k", **(headers or {})}, **meta)


def compressed(body, level=6, **header):
    """*body* by gzip, with another time and system in its header."""
    data = gzip.compress(body, level, mtime=header.get("mtime", 0))
    return data[:9] + bytes([header.get("system", 255)]) + data[10:]


SAME = {
    "a form's CSRF field": [
        {"body": b"csrfmiddlewaretoken=one&amount=10", "content_type": FORM},
        {"body": b"csrfmiddlewaretoken=two&amount=10", "content_type": FORM},
    ],
    "a CSRF field at the end": [
        {"body": b"amount=10&csrfmiddlewaretoken=one", "content_type": FORM},
        {"body": b"amount=10&csrfmiddlewaretoken=two", "content_type": FORM},
    ],
    "the port of https": [{}, {"headers": {"Host": "testserver:443"}}],
    "the port of http": [{}, {"headers": {"Host": "testserver:80"}}],
    "the case and the dot of a host": [{}, {"headers": {"Host": "TestServer."}}],
    "a charset": [{"content_type": "application/json"}, {"content_type": "application/JSON; charset=UTF-8"}],
    "escapes in the query": [{"path": "/act/?a=b+c&d=%7e%c3%a9"}, {"path": "/act/?a=b%20c&d=~%C3%A9"}],
    "escapes in the path": [{"path": "/act/"}, {"path": "/%61ct/"}],
    "when a body was compressed": [
        {"body": compressed(b"ten", mtime=1), "headers": {"Content-Encoding": "gzip"}},
        {"body": compressed(b"ten", mtime=2, system=3), "headers": {"Content-Encoding": "gzip"}},
    ],
    "what a client and its proxies say of themselves": [
        {},
        {
            "headers": {
                "Accept": "*/*",
                "Accept-Encoding": "gzip, br",
                "Connection": "close",
                "Expect": "100-continue",
                "Forwarded": "for=192.0.2.1",
                "Traceparent": "00-1-1-01",
                "User-Agent": "curl/8",
                "Via": "1.1 proxy",
                "X-Forwarded-For": "192.0.2.1",
                "X-Request-Id": "2",
            }
        },
    ],
}

OTHER = {
    "another field": [
        {"body": b"csrfmiddlewaretoken=one&amount=10", "content_type": FORM},
        {"body": b"csrfmiddlewaretoken=one&amount=11", "content_type": FORM},
    ],
    "a plus sign in a body that is no form": [
        {"body": b'{"note": "1+1"}', "content_type": FORM},
        {"body": b'{"note": "1 1"}', "content_type": FORM},
    ],
    "another port": [{"headers": {"Host": "testserver:8000"}}, {"headers": {"Host": "testserver:8001"}}],
    "another host": [{"headers": {"Host": "a.testserver"}}, {"headers": {"Host": "b.testserver"}}],
    "another value in the query": [{"path": "/act/?a=b"}, {"path": "/act/?a=c"}],
    "an escaped separator in the query": [{"path": "/act/?a=b%26c=d"}, {"path": "/act/?a=b&c=d"}],
    "the order of a query": [{"path": "/act/?a=1&a=2"}, {"path": "/act/?a=2&a=1"}],
    "another compressed body": [
        {"body": compressed(b"ten"), "headers": {"Content-Encoding": "gzip"}},
        {"body": compressed(b"one"), "headers": {"Content-Encoding": "gzip"}},
    ],
    "a compressed body that is none": [
        {"body": zlib.compress(b"ten"), "headers": {"Content-Encoding": "gzip"}},
        {"body": zlib.compress(b"one"), "headers": {"Content-Encoding": "gzip"}},
    ],
}


@pytest.fixture(autouse=True)
def served(protect, serve, settings):
    """A view that reads nothing, on any host."""
    settings.ALLOWED_HOSTS = ["*"]
    serve(protect(lambda request: answer(request, {"done": True})))


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
def test_an_honest_retry_is_replayed(first, second):
    """It is not 422 for what nobody meant."""
    assert send(**first).status_code == 201
    assert is_replay(send(**second))


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_another_request_is_refused(first, second):
    """What a view may act upon is compared."""
    assert send(**first).status_code == 201
    assert send(**second).status_code == 422
