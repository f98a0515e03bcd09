"""What a document says of a policy: its words, and a pattern that takes the keys which a server takes."""

import re
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_idempotency import Policy, conf, fingerprints
from django_idempotency.core.keys import parse_key
from django_idempotency.exceptions import KeyInvalid
from django_idempotency.operations.openapi import KEY_PATTERN, description, key_parameter, refusals, span

DAYS = timedelta(days=7)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Policy(), "kept for 24 hours. Then the key is new again."),
        (Policy(ttl=DAYS), "kept for 7 days."),
        (Policy(tombstone_ttl=DAYS), "For another 7 days the key is refused."),
        (Policy(), "token of 1 to 255 printable ASCII characters."),
        (Policy(key_format="uuid"), "Form: A UUID."),
        (Policy(key_format="a+"), "takes only some of them"),
        (Policy(key_max_age=DAYS), "UUID of version 7 or a ULID, made at most 7 days ago"),
        (Policy(), "Compared: Method, host, path, query, media type, `If-Match`, `If-Unmodified-Since` and body."),
        (Policy(fingerprint=fingerprints.json()), "Compared: What this API takes for the meaning of a request."),
        (Policy(), "and body, of answers that are final: 2xx, 3xx, 402, 404 and 410."),
        (Policy(store_body=False), "and no body,"),
        (Policy(record=str, replay=str), "and what is needed to render the body again,"),
        (Policy(should_store=bool), "those that this API takes for final"),
        (Policy(), "With another answer nothing was done, and the key is free."),
        (Policy(mode="phased"), "a retry goes on where the request has stopped."),
        (Policy(store="redis"), "After a refusal the key is free."),
        (Policy(), "Whose: The authenticated user's, else the sent credential's, else that of all who send none."),
        (Policy(scope=str), "Whose: The caller's."),
        (Policy(), "It is known at this endpoint alone."),
        (Policy(operation="pay"), "Other endpoints may know it, too."),
        (Policy(docs_url="/docs/errors"), "More: </docs/errors>"),
    ],
)
def test_the_policy_in_words(settings, policy, text):
    """What the IETF's draft asks a server to publish follows the options."""
    backend = "django_idempotency.stores.redis.RedisStore"
    settings.IDEMPOTENCY = {"STORES": {"redis": {"BACKEND": backend, "OPTIONS": {"CACHE": "default"}}}}
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1"}}

    assert text in description(conf.resolved(policy))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 second"), (90, "90 seconds"), (0.5, "0.5 seconds"), (7200, "2 hours"), (5400, "90 minutes")],
)
def test_spans(seconds, text):
    assert span(seconds) == text


@given(st.text(st.characters(max_codepoint=0x7F), max_size=12) | st.from_regex(KEY_PATTERN, fullmatch=True))
@example('"a"b')
@example('"\\"')
@example('""')
def test_the_pattern_takes_what_the_server_takes(value):
    """But for spaces around a value, which HTTP takes off, and parameters after a string."""
    taken = re.fullmatch(KEY_PATTERN, value) is not None
    try:
        parse_key(value)
    except KeyInvalid:
        assert not taken or len(value) > 255
    else:
        assert taken or value != value.strip(" \t") or ";" in value


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        (r"order-\d+", r"^(?:order-\d+)$"),
        (re.compile("a|b"), "^(?:a|b)$"),
        ("(?P<a>a)", KEY_PATTERN),  # of Python alone
        (re.compile("A", re.IGNORECASE), KEY_PATTERN),
        (str.isalpha, KEY_PATTERN),
    ],
)
def test_the_format_of_a_key_is_its_pattern(wanted, pattern):
    """Where the languages of the clients read the expression as Python does."""
    assert key_parameter(conf.resolved(Policy(key_format=wanted)))["schema"]["pattern"] == pattern


def test_the_refusals_follow_the_options():
    """Only those that can come. The API's own documentation is linked."""
    told = refusals(conf.resolved(Policy()), {}, None)
    assert "key-missing" not in told[400]["description"]
    assert "key-expired" not in told[400]["description"]

    told = refusals(conf.resolved(Policy(required=True, key_max_age=DAYS, docs_url="/docs")), {}, None)
    assert "`key-missing`" in told[400]["description"]
    assert "`key-expired`" in told[400]["description"]
    assert all("Link" in response["headers"] for response in told.values())
