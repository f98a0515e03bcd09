"""What a client does after an attempt: a table, without a server."""

import json

import pytest

from django_idempotency import exceptions
from django_idempotency.client import CallPolicy
from django_idempotency.client.decisions import RETRIED, Answer, End, Retry, decide, read_answer
from django_idempotency.exceptions import OutcomeUnknown, PolicyError, Refusal

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT
REFUSALS = [each for each in vars(exceptions).values() if isinstance(each, type) and each.__base__ is Refusal]
PROBLEM = {"Content-Type": "application/problem+json"}


def verdict(answer, **given):
    usual = {
        "attempts": 1, "elapsed": 0.0, "within": 60.0, "most_attempts": 20, "first_wait": 0.1, "longest_wait": 5.0,
        "draw": lambda: 1.0,
    }  # fmt: skip
    return decide(answer, **usual | given)


def read(status, headers=None, body=b""):
    return read_answer(status, {**(headers or {})}, body, NOW)


@pytest.mark.parametrize(
    "status", [200, 201, 204, 303, 307, 400, 401, 402, 403, 404, 409, 410, 411, 412, 422, 501, 505]
)
def test_an_answer_is_final(status):
    """It is the server's word on this request. A 409 that does not say when to come back is the API's own conflict."""
    assert verdict(Answer(status=status)) is End.FINAL


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 520])
def test_an_answer_is_worth_a_retry(status):
    """The server could not, not now, or does not know. RFC 9110, 15."""
    assert verdict(Answer(status=status)) == Retry(0.1)


def test_a_lost_answer_is_worth_a_retry():
    """Nobody knows what the server has done, until the same request is sent again."""
    assert verdict(None) == Retry(0.1)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_each_refusal_of_the_server(refusal):
    """The client does what the page of errors says that one should, also if an intermediary took `Retry-After` away."""
    answer = read(refusal.status, PROBLEM, json.dumps(refusal().problem()).encode())
    again = refusal.retry_after is not None or refusal.code == "body-incomplete"  # nothing arrived, so nothing ran
    expected = End.UNKNOWN if refusal is OutcomeUnknown else Retry(0.1) if again else End.FINAL

    assert verdict(answer) == expected


def test_a_409_of_any_server_that_says_when_is_waited_for():
    """A project's own exception handler keeps `Retry-After`, whatever its body looks like."""
    answer = read(409, {"Content-Type": "application/json", "Retry-After": "2"}, b'{"error": "busy"}')

    assert verdict(answer) == Retry(2.1)


def test_a_plain_409_is_retried_if_the_policy_says_so():
    """For servers that say no more while they work."""
    assert verdict(Answer(status=409), retried=RETRIED | {409}) == Retry(0.1)


def test_the_interval_doubles_and_the_wait_is_a_random_part_of_it():
    """Full jitter: 0.1, 0.2, 0.4 ... up to the longest wait, of which each client draws its own part."""
    waits = [verdict(None, attempts=number).after for number in range(1, 9)]

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert verdict(None, attempts=8, draw=lambda: 0.5) == Retry(2.5)
    assert verdict(None, attempts=1_000_000, most_attempts=2_000_000) == Retry(5.0)


def test_retry_after_is_the_least_wait():
    """The random part comes on top, so that those who were refused together do not return together."""
    assert verdict(Answer(status=503, retry_after=7.0), draw=lambda: 0.0) == Retry(7.0)
    assert verdict(Answer(status=503, retry_after=7.0)) == Retry(7.1)


@pytest.mark.parametrize(
    "given",
    [{"attempts": 20}, {"elapsed": 60.0}, {"elapsed": 70.0}],
    ids=["attempts", "time", "time that an attempt overran"],
)
def test_the_budget_ends(given):
    """With the last attempt, or with the time."""
    assert verdict(None, **given) is End.SPENT


def test_a_retry_after_beyond_the_budget_ends_it_at_once():
    """To wait for less would disobey the server, and to wait for all of it the caller."""
    answer = Answer(status=503, retry_after=30.0)

    assert verdict(answer, elapsed=31.0) is End.SPENT
    assert verdict(answer, elapsed=30.0) == Retry(30.0)  # the random part is cut


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tuesday, 14-Nov-23 22:13:30 GMT", 10.0),  # RFC 850
        ("Tue Nov 14 22:13:30 2023", 10.0),  # asctime
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),  # over
        ("-1", None),
        ("1.5", None),
        ("²", None),  # a digit for str.isdigit
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    """RFC 9110, 10.2.3, with the three forms of 5.6.7. Anything else says nothing."""
    assert read(503, {"Retry-After": value}).retry_after == seconds


def test_a_date_is_read_by_the_servers_own_clock():
    """If the answer has a `Date`: our clock may be an hour off."""
    headers = {"Retry-After": "Tue, 14 Nov 2023 23:13:30 GMT", "Date": "Tue, 14 Nov 2023 23:13:20 GMT"}

    assert read(503, headers).retry_after == 10.0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"code": "outcome-unknown", "type": "https://api.example/keys#other"}', "outcome-unknown"),
        (b'{"type": "urn:django-idempotency:outcome-unknown"}', "outcome-unknown"),
        (b'{"type": "https://api.example/keys#outcome-unknown"}', "outcome-unknown"),
        (b'{"type": 1, "code": 2}', ""),
        (b'["code"]', ""),
        (b"{", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_the_code_is_that_of_problem_details(body, code):
    """Of `code`, else of the end of `type`. A body that is no problem has none, and does no harm."""
    assert read(409, {"Content-Type": "application/problem+json; charset=utf-8"}, body).code == code


def test_only_problem_details_of_an_error_have_a_code():
    """Another server's JSON may have a member of that name."""
    body = b'{"code": "outcome-unknown"}'

    assert read(409, {"Content-Type": "application/json"}, body).code == ""
    assert read(200, PROBLEM, body).code == ""


@pytest.mark.parametrize(
    "given",
    [{"within": 5}, {"attempts": 0}, {"first_wait": -1}, {"methods": "POST"}],
    ids=lambda given: next(iter(given)),
)
def test_a_bad_policy_is_named(given):
    """At the start of the program, with the name of the option."""
    with pytest.raises(PolicyError, match=next(iter(given))):
        CallPolicy(**given)
