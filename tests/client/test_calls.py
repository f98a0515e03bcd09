"""What a server sees of a client, and the client's caller of the server. Each test runs with each library."""

import io
import pickle
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from django_idempotency import exceptions
from django_idempotency.client import CallPolicy
from django_idempotency.client import httpx as for_httpx
from django_idempotency.client.requests import IdempotentAdapter
from django_idempotency.core.keys import is_uuid, time_of
from tests.client.api import Api, answers, answers_half, cuts, holds, refuses
from tests.client.senders import SENDERS, Clock, Sender

PAYMENT = {"amount": 10, "reference": "rent"}


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as api:
        yield api


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest, clock: Clock) -> Callable[..., Sender]:
    """Makes a sender with these options of the policy; the random part of each wait is all of it."""

    def make(**options: Any) -> Sender:
        return SENDERS[request.param](CallPolicy(clock=clock, draw=lambda: 1.0, **options), clock)

    return make


@pytest.fixture
def post(sender: Callable[..., Sender], api: Api) -> Callable[..., Any]:
    return partial(sender().send, "POST", f"{api.url}/payments/")


def test_a_call_has_one_key_and_the_same_bytes_until_its_answer_is_final(api, clock, post):
    """Whatever is lost on the way, and whatever the server says meanwhile."""
    api.will(
        answers(503), cuts, answers_half, refuses(exceptions.RequestInProgress), answers(201, {"id": 1})
    )  # fmt: skip

    response = post(json=PAYMENT)

    assert (response.status_code, response.json()) == (201, {"id": 1})
    assert len(set(api.keys)) == 1
    assert is_uuid(api.keys[0])
    assert time_of(api.keys[0]) is not None  # version 7
    assert len({each.body for each in api.received}) == 1
    assert api.received[0].body
    assert clock.waits == pytest.approx([0.1, 0.2, 0.4, 1.8])


def test_each_call_is_an_action_of_its_own(api, post):
    """Two equal payments are two payments, unless somebody says that they are one."""
    api.will(answers(201), answers(201), answers(201), answers(201))
    for headers in ({}, {}, {"Idempotency-Key": '"of-mine"'}, {"idempotency-key": '"of-mine"'}):
        post(json=PAYMENT, headers=headers)

    assert len(set(api.keys)) == 3
    assert api.keys[2:] == ['"of-mine"'] * 2


def test_an_answer_that_does_not_come_is_lost(api, post):
    """The library's own timeout says how long an attempt may take."""
    api.will(holds, answers(201))

    assert post(json=PAYMENT, timeout=0.2).status_code == 201
    assert len(api.keys) == 2
    assert len(set(api.keys)) == 1


@pytest.mark.parametrize("refusal", [exceptions.KeyMissing, exceptions.KeyExpired, exceptions.KeyReused])
def test_a_refusal_is_returned(api, clock, post, refusal):
    """400 and 422 are final: the caller reads them as any answer."""
    api.will(refuses(refusal))

    response = post(json=PAYMENT)

    assert (response.status_code, response.json()["code"]) == (refusal.status, refusal.code)
    assert clock.waits == []


@pytest.mark.parametrize("compressed", [False, True])
def test_an_unknown_outcome_is_raised(api, clock, sender, compressed):
    """As the package's error and as the library's, with the key and the answer. It is not sent again."""
    api.will(refuses(exceptions.OutcomeUnknown, compressed=compressed))
    sent = sender()

    with pytest.raises(exceptions.OutcomeUnknown) as raised:
        sent.send("POST", f"{api.url}/payments/", json=PAYMENT)

    error = raised.value
    assert isinstance(error, sent.refused)
    assert (error.key, error.response.json()["code"]) == (api.keys[0], "outcome-unknown")
    assert error.problem()["detail"] == str(error)
    assert error.request.headers["Idempotency-Key"] == error.key
    assert clock.waits == []


def test_a_spent_budget_is_raised_with_the_last_answer(api, clock, sender):
    """What is returned is final, so a 503 is not. The key is there for the next try."""
    sent = sender(attempts=2)
    api.will(cuts, answers(503, b"closed"), answers(201))

    with pytest.raises(exceptions.NoFinalAnswer) as raised:
        sent.send("POST", f"{api.url}/payments/", json=PAYMENT)

    error = raised.value
    assert isinstance(error, sent.errors)
    assert (error.response.status_code, error.response.content) == (503, b"closed")
    sent.send("POST", f"{api.url}/payments/", json=PAYMENT, headers={"Idempotency-Key": error.key})
    assert set(api.keys) == {error.key}


def test_a_spent_budget_is_raised_with_what_the_last_attempt_raised(api, clock, sender):
    """The library's own error is the cause."""
    sent = sender(within=timedelta(seconds=1))
    api.will(*[cuts] * 10)

    with pytest.raises(exceptions.NoFinalAnswer, match="after 5 attempts") as raised:
        sent.send("POST", f"{api.url}/payments/", json=PAYMENT)

    assert raised.value.response is None
    assert isinstance(raised.value.__cause__, sent.errors)
    assert clock.waits == pytest.approx([0.1, 0.2, 0.4, 0.3])


def test_nobody_listens(clock, sender):
    """A connection that is refused is tried again: servers restart."""
    with Api() as gone:
        pass

    with pytest.raises(exceptions.NoFinalAnswer):
        sender(attempts=3).send("POST", gone.url, json=PAYMENT)
    assert len(clock.waits) == 2


def test_other_methods_pass_through(api, clock, sender):
    """They are idempotent by definition: no key, and the answer as it comes."""
    sent = sender()
    api.will(answers(503), answers(503))

    assert [sent.send(method, api.url).status_code for method in ("GET", "PUT")] == [503, 503]
    assert api.keys == [None, None]
    assert clock.waits == []


def test_the_key_has_the_header_and_the_form_of_the_policy(api, sender):
    """For servers that want another header, or the RFC 9651 string alone."""
    api.will(answers(201))
    sender(header="X-Request-Token", make_key=lambda: '"8e03"').send("PATCH", api.url, json=PAYMENT)

    assert api.received[0].headers["x-request-token"] == '"8e03"'
    assert api.keys == [None]


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_keeps_key_and_body(api, sender, status):
    """It is the same action at another place, where an attempt may be lost, too."""
    api.will(answers(status, Location="/moved/"), cuts, answers(201))

    response = sender().send("POST", f"{api.url}/payments/", json=PAYMENT, redirected=True)

    assert response.status_code == 201
    assert [each.path for each in api.received] == ["/payments/", "/moved/", "/moved/"]
    assert len({(each.key, each.body, each.method) for each in api.received}) == 1


def test_a_redirect_to_a_page_is_read_with_get(api, sender):
    """A 303 is the answer to the action. The GET carries the key, as all other headers, and means nothing by it."""
    api.will(answers(303, Location="/receipt/"), answers(200))

    sender().send("POST", f"{api.url}/payments/", json=PAYMENT, redirected=True)

    assert [each.method for each in api.received] == ["POST", "GET"]
    assert len(set(api.keys)) == 1


def test_authentication_keeps_the_key(api, sender):
    """A 401 is answered above us, with credentials: the same request of the same action."""
    sent = sender()
    challenge = 'Digest realm="shop", nonce="once", qop="auth"'
    api.will(answers(401, WWW_Authenticate=challenge), cuts, answers(201))

    response = sent.send("POST", f"{api.url}/payments/", json=PAYMENT, auth=sent.digest("ann", "secret"))

    assert response.status_code == 201
    assert len({(each.key, each.body) for each in api.received}) == 1
    assert "authorization" in api.received[1].headers


def parts() -> Iterator[bytes]:
    yield b'{"amount":'
    yield b" 10}"


async def async_parts():
    for part in parts():
        yield part


@pytest.mark.parametrize("kind", ["file", "iterator"])
def test_a_body_that_can_be_read_once_is_sent_again(api, sender, kind):
    """It is read into memory first, so that a retry has the same bytes."""
    sent = sender()
    is_async = hasattr(sent, "run")
    body = io.BytesIO(b"".join(parts())) if kind == "file" and not is_async else async_parts() if is_async else parts()
    api.will(cuts, answers(503), answers(201))

    assert sent.send("POST", api.url, content=body).status_code == 201
    assert [each.body for each in api.received] == [b'{"amount": 10}'] * 3


def test_files_of_a_form_are_sent_again(api, post):
    """With the same boundary."""
    api.will(cuts, answers(201))
    post(files={"scan": ("scan.txt", io.BytesIO(b"of an invoice"), "text/plain")})

    assert api.received[0].body == api.received[1].body
    assert b"of an invoice" in api.received[0].body


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody has signed, with its key, in one file."""
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
         "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def test_a_certificate_that_does_not_convince_is_the_librarys_error(api, clock, certificate, sender):
    """At once: the next attempt would meet the same one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    sent = sender()

    with pytest.raises(sent.errors) as raised:
        sent.send("POST", api.url.replace("http:", "https:"), json=PAYMENT)

    assert not isinstance(raised.value, exceptions.NoFinalAnswer)
    assert clock.waits == []


def test_a_request_that_is_sent_once_more_is_the_same_action(api):
    """In both libraries a request is an object, and it has its key."""
    api.will(answers(422), answers(201), answers(422), answers(201))
    with httpx.Client(mounts={api.url: for_httpx.IdempotentTransport()}) as client:
        request = client.build_request("POST", api.url, json=PAYMENT)
        for _ in range(2):
            client.send(request)
    with requests.Session() as session:
        session.mount("http://", IdempotentAdapter())
        prepared = session.prepare_request(requests.Request("POST", api.url, json=PAYMENT))
        for _ in range(2):
            session.send(prepared)

    assert api.keys[0] == api.keys[1]
    assert api.keys[2] == api.keys[3] != api.keys[0]


def test_an_answer_that_the_caller_streams_is_whole(api):
    """It is in memory before its first byte is returned, still encoded, and can be read as ever."""
    api.will(answers_half, answers(201, b"a" * 9), answers_half, answers(201, b"b" * 9))
    policy = CallPolicy(first_wait=timedelta(milliseconds=1))
    with (
        httpx.Client(transport=for_httpx.IdempotentTransport(policy=policy)) as client,
        client.stream("POST", api.url, json=PAYMENT) as response,
    ):
        assert b"".join(response.iter_bytes(4)) == b"a" * 9
    assert response.elapsed > timedelta(0)
    with requests.Session() as session:
        session.mount("http://", IdempotentAdapter(policy=policy))
        assert b"".join(session.post(api.url, json=PAYMENT, stream=True).iter_content(4)) == b"b" * 9


def test_a_call_of_requests_without_a_timeout_ends(api, clock):
    """Requests itself would wait for ever."""
    api.will(holds, answers(201))
    with requests.Session() as session:
        session.mount("http://", IdempotentAdapter(timeout=timedelta(seconds=0.2), sleep=clock.sleep))
        assert session.post(api.url, json=PAYMENT).status_code == 201


def test_a_session_can_be_pickled(api):
    """As any session of requests, with the policy."""
    api.will(answers(503))
    with requests.Session() as session:
        session.mount("http://", IdempotentAdapter(policy=CallPolicy(attempts=1)))
        copy = pickle.loads(pickle.dumps(session))  # noqa: S301 our own
    with copy, pytest.raises(exceptions.NoFinalAnswer, match="after 1 attempts"):
        copy.post(api.url, json=PAYMENT)
