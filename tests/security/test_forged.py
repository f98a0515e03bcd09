"""Headers that a client makes up: they open nothing, and name one key or none."""

import pytest

from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import is_replay, plain, post
from tests.app.views import make_payment

# Header lines as they are on the wire, the status that they get, and the key of the record; None where there is none.
LINES = {
    "one": (b"Idempotency-Key: k-1\r\n", 201, "k-1"),
    "another case": (b"IDEMPOTENCY-KEY: k-2\r\n", 201, "k-2"),
    "twice the same": (b"Idempotency-Key: k-3\r\n" * 2, 400, None),
    "two": (b"Idempotency-Key: k-4\r\nIdempotency-Key: k-5\r\n", 400, None),
    "two strings": (b'Idempotency-Key: "k-4"\r\nIdempotency-Key: "k-5"\r\n', 400, None),
    "a string over two lines": (b'Idempotency-Key: "k-4\r\nIdempotency-Key: k-5"\r\n', 201, "k-4,k-5"),
    "one and an empty one": (b"Idempotency-Key: k-6\r\nIdempotency-Key:\r\n", 400, None),
    "an empty one and one": (b"Idempotency-Key:\r\nIdempotency-Key: k-6\r\n", 400, None),
    "empty": (b"Idempotency-Key:\r\n", 400, None),
    # Servers make one name of both, so an underscore can get a header past a proxy.
    "underscore": (b"Idempotency_Key: k-7\r\n", 201, None),
    "underscore beside one": (b"Idempotency_Key: k-7\r\nIdempotency-Key: k-8\r\n", 201, "k-8"),
    "one that says that it is a replay": (b"Idempotency-Key: k-9\r\nIdempotency-Replayed: true\r\n", 201, "k-9"),
}


@pytest.mark.django_db(transaction=True)
def test_repeated_headers_name_one_key_or_none(serve, send):
    """Sent to a real server: two keys are an error in any order, and never the first or the last of them."""
    serve(plain(make_payment))

    found = {}
    for name, (lines, _status, _key) in LINES.items():
        before = set(IdempotencyRecord.objects.values_list("key", flat=True))
        answer = send(
            b"POST /act/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\nConnection: close\r\n"
            + lines
            + b'\r\n{"amount": 1}'
        )
        keys = set(IdempotencyRecord.objects.values_list("key", flat=True)) - before
        assert b"Idempotency-Replayed" not in answer, name
        found[name] = (int(answer.split(b" ", 2)[1]), *(keys or {None}))

    assert found == {name: (status, key) for name, (_lines, status, key) in LINES.items()}


@pytest.mark.django_db
def test_a_client_does_not_say_that_it_gets_a_replay(protect, client, serve):
    """The mark is ours: what a client sends under its name is neither believed nor sent back."""
    serve(protect(make_payment))

    responses = [post(client, headers={"Idempotency-Replayed": "true"}) for _ in range(2)]

    assert [is_replay(response) for response in responses] == [False, True]
    assert Payment.objects.count() == 1


CLAIMS = {
    "Remote-User": "payer",
    "X-Remote-User": "payer",
    "X-Forwarded-User": "payer",
    "X-Forwarded-For": "127.0.0.1",
    "X-Real-Ip": "127.0.0.1",
    "X-Original-Url": "/elsewhere/",
    "Script-Name": "/elsewhere",
    "X-Http-Method-Override": "GET",
    "X-Api-Key": "payer",
    "X-Request-Id": "the-first-request",
}


@pytest.mark.django_db
def test_a_header_that_claims_something_changes_nothing(api, other_api):
    """It leads no client to another's answer, and keeps none from its own."""
    for name, value in CLAIMS.items():
        first = post(api, url="/pay/", key=name, headers={"X-Request-Id": "the-first-request"})
        theirs = post(other_api, url="/pay/", key=name, headers={name: value})
        again = post(api, url="/pay/", key=name, headers={name: value})

        assert [is_replay(each) for each in (first, theirs, again)] == [False, False, True], name
        assert (first.status_code, theirs.status_code) == (201, 201)
        assert again.content == first.content


@pytest.mark.django_db
def test_a_forwarded_host_counts_only_where_the_project_says_so(protect, client, serve, settings):
    """Where it does, another tenant's domain is another request; where it does not, it is noise."""
    serve(protect(make_payment))
    first = post(client, HTTP_HOST="tenant-a.example")
    forged = {"HTTP_HOST": "tenant-a.example", "headers": {"X-Forwarded-Host": "tenant-b.example"}}

    assert is_replay(post(client, **forged))
    settings.USE_X_FORWARDED_HOST = True
    refused = post(client, **forged)

    assert refused.status_code == 422
    assert first.content not in refused.content
    assert IdempotencyRecord.objects.get().request.startswith("POST tenant-a.example ")


HOSTS = [
    "evil.example",
    "tenant-a.example@evil.example",
    "tenant-a.example, evil.example",
    "tenant-a.example/evil",
    "tenant a",
    "tenant-a.example\x00",
    "",
]


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["Host", "X-Forwarded-Host"])
def test_a_host_that_is_none_of_ours_is_refused(protect, client, serve, settings, name):
    """With 400, as Django does it; a used key changes nothing about it, and nothing is stored."""
    settings.USE_X_FORWARDED_HOST = name == "X-Forwarded-Host"
    serve(protect(make_payment))
    assert post(client, headers={name: "tenant-a.example"}).status_code == 201

    for host in HOSTS:
        for key in ("key-1", "key-2"):
            assert post(client, key=key, headers={name: host}).status_code == 400, host
    assert Payment.objects.count() == IdempotencyRecord.objects.count() == 1
