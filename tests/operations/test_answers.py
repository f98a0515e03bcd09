"""An answer that a person writes: what any handler could have answered, and nothing else."""

import pytest

from django_idempotency.core.operator_answer import AnswerError, operator_record


def answer(status=201, content_type="application/json", body=b'{"id":1}', **options):
    return operator_record(status, content_type, body, **{"max_body": 1000, **options})


def wrong(*args, **kwargs):
    """The part that is wrong, and the words."""
    with pytest.raises(AnswerError) as error:
        answer(*args, **kwargs)
    return error.value.part, str(error.value)


def test_an_answer_is_stored_as_it_is_written():
    """Not a byte of the body is changed, and the headers are those of any answer."""
    made = answer(body=b'{ "id" : 1.10 }\n')

    assert (made.status, made.reason, made.body) == (201, "Created", b'{ "id" : 1.10 }\n')
    assert dict(made.headers) == {"Content-Type": "application/json", "Content-Length": None}


@pytest.mark.parametrize("status", [200, 404, 599])
def test_an_answer_may_have_no_body(status):
    """Then it has no content type either, and one that was given as the default does not matter."""
    made = answer(status, body=b"")

    assert (made.status, made.headers, made.body) == (status, (), b"")


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 199, 600, 1000])
def test_a_status_is_one_of_a_last_word(status):
    assert wrong(status)[0] == "status"


@pytest.mark.parametrize("status", [204, 205, 304])
def test_some_statuses_have_no_body(status):
    assert wrong(status)[0] == "body"
    assert answer(status, body=b"").status == status


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "text/plain; charset=utf-8", 'text/plain;charset="UTF-8"', "image/svg+xml; a=b; c=d"],
)
def test_content_types(content_type):
    assert answer(content_type=content_type, body=b"not json").headers[0] == ("Content-Type", content_type)


@pytest.mark.parametrize(
    "content_type",
    ["", "json", "text/", "text/plain\r\nSet-Cookie: a=b", "text/plain; charset=latin-1", "text/plain;", "té/xt"],
)
def test_what_is_no_content_type(content_type):
    """Nothing that could become a header of its own, and no charset but the one that bodies are written in."""
    assert wrong(content_type=content_type)[0] == "content_type"


@pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON", "application/problem+json"])
@pytest.mark.parametrize("body", [b"{", b"{'id': 1}", b"NaN", b"\xff", b"[" * 100_000], ids=repr)
def test_json_is_json(content_type, body):
    """Where the content type says so, in any spelling."""
    part, words = wrong(content_type=content_type, body=body, max_body=1_000_000)

    assert part == "body"
    assert words.startswith("The body is not JSON")


def test_a_body_has_its_limit():
    """In bytes, as for a handler's."""
    assert answer(body=b'"12345678"', max_body=10).body
    assert wrong(body=b'"123456789"', max_body=10) == ("body", "The body has 11 bytes, and 10 are allowed.")


def test_the_result_of_an_event_is_json():
    """A redelivery reads it."""
    assert answer(body=b"null", is_event=True).body == b"null"
    assert wrong(body=b"", is_event=True)[0] == "body"
    assert wrong(content_type="text/plain", body=b"null", is_event=True)[0] == "content_type"
