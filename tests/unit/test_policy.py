"""The options: what each may be, what an error says, and which level wins."""

import ast
import re
import sys
import types
from datetime import timedelta
from pathlib import Path
from typing import get_type_hints

import pytest
from django.utils.module_loading import import_string
from hypothesis import given
from hypothesis import strategies as st

from django_idempotency import Policy, conf
from django_idempotency.core import policy
from django_idempotency.core.policy import (
    DEFAULTS,
    OPTIONS,
    Options,
    ResolvedPolicy,
    check_options,
    resolve,
)
from django_idempotency.exceptions import PolicyError
from tests.ids import spelt

PACKAGE = Path(policy.__file__).parents[1]
AMBIGUOUS = {"scope", "operation", "key", "fingerprint", "record"}  # columns of the records, too, and a slot
DOTTED_PATH = "tests.unit.test_policy.chosen"

GOOD = {
    "required": [True, False],
    "methods": [("POST",), ["put", "DELETE"], {"PATCH"}],
    "ttl": [timedelta(microseconds=1), timedelta(days=3660)],
    "tombstone_ttl": [timedelta(days=90), None],
    "in_flight": ["reject", "wait"],
    "wait_timeout": [timedelta(seconds=1)],
    "lease": [timedelta(seconds=1)],
    "uncertain": ["refuse", "retry", DOTTED_PATH, lambda operation: "unsure"],
    "uncertain_ttl": [timedelta(days=3), None],
    "not_done": [(), [ConnectionRefusedError], {TimeoutError}],
    "retries": [0, 3, 100],
    "mode": ["atomic", "phased", "observe"],
    "max_attempts": [1, 100],
    "resume_for": [timedelta(hours=1), None],
    "store_request": [True, False, DOTTED_PATH, lambda request, sent: sent],
    "observe_sample": [0, 1, 0.01],
    "store": ["default", "redis"],
    "using": ["other", lambda request: "default", None],
    "scope": [DOTTED_PATH, lambda request: "tenant", None],
    "operation": ["transfer", lambda request: "transfer", None],
    "key": [DOTTED_PATH, lambda request: "1", None],
    "key_format": ["uuid", r"[a-z]+", re.compile("[a-z]+"), lambda key: True, None],
    "form_key": [True, False],
    "key_max_age": [timedelta(days=1), None],
    "operation_aliases": [("POST payments/",), ["pay", "charge"], None],
    "moved_from": [DOTTED_PATH, lambda request, key: None, None],
    "fingerprint": [DOTTED_PATH, lambda request: b"", None],
    "should_store": [DOTTED_PATH, lambda response: True, None],
    "replay_guard": [DOTTED_PATH, lambda request, record: None, None],
    "docs_url": ["https://api.example/keys", "/docs/keys/", None],
    "header": ["X-Request-Key"],
    "replayed_header": ["X-Replayed"],
    "expires_header": ["X-Answers-Until", None],
    "retry_after": [timedelta(seconds=2), DOTTED_PATH, lambda attempt: timedelta(seconds=1)],
    "echo": [True, False],
    "refuse": [DOTTED_PATH, lambda request, refusal: None, None],
    "max_body": [1, 10**9],
    "unstored_headers": [("X-Card-Token",), ["x-a", "X-B"], {"X-C"}, None],
    "store_body": [True, False],
    "record": [DOTTED_PATH, lambda request, response: 1, None],
    "replay": [DOTTED_PATH, lambda request, reference: None, None],
}


async def asked(operation):
    """A probe is asked on the request's thread, which awaits nothing."""


BAD = {
    "required": [None, 1, "yes"],
    "methods": ["POST", (), ("GET",), ("POST", "head"), (1,), ("PO ST",), None, 5],
    "ttl": [0, 3600, timedelta(0), timedelta(seconds=-1), timedelta(days=3661), None],
    "tombstone_ttl": [0, timedelta(0)],
    "in_flight": ["queue", None, True],
    "wait_timeout": [10, timedelta(0)],
    "lease": [30, timedelta(0), timedelta(milliseconds=99)],
    "uncertain": ["ignore", None, True, asked],
    "uncertain_ttl": [3600, timedelta(0)],
    "not_done": [ConnectionRefusedError, "builtins.OSError", [SystemExit], [OSError()], None],
    "retries": [-1, 101, True, 1.5, "3", None],
    "mode": ["phases", "observed", None],
    "max_attempts": [0, -1, True, 1.5, None],
    "resume_for": [3600, timedelta(0)],
    "store_request": [None, 1, "secrets"],
    "observe_sample": [-0.1, 1.1, True, "0.5", None],
    "store": ["", None, 1],
    "using": ["", 1],
    "scope": ["user", "", 1, "a b.c", "a..b"],
    "operation": ["", 1],
    "key": ["header", 1],
    "key_format": ["(", 1],
    "form_key": [None, "_key", 1],
    "key_max_age": [3600, timedelta(0)],
    "operation_aliases": ["POST payments/", (), ("",), (1,), ("x" * 256,)],
    "moved_from": ["idemkit", 1],
    "fingerprint": [b"", "json"],
    "should_store": [True, 200],
    "replay_guard": ["guard"],
    "docs_url": ["api.example/keys", "ftp://api.example/", "https://api.example/<x>", "/a b", ""],
    "header": ["", "Idempotency Key", "Schlüssel", None, "a:b"],
    "replayed_header": ["", "a\n", None],
    "expires_header": ["", "a:b", 5],
    "retry_after": [1, None, timedelta(0), "soon"],
    "echo": [None, 1, "Idempotency-Key"],
    "refuse": [True, "stripe"],
    "max_body": [0, -1, 1.5, True, "1MB", None],
    "unstored_headers": ["X-Card-Token", (), ("a:b",), ("",), (1,), 5, True],
    "store_body": [None, 0, "no"],
    "record": [True, "pk"],
    "replay": [True, "render"],
}


def chosen(*args):
    """What the dotted path leads to."""
    return "chosen"


NOT_CALLABLE = 5


def cases(values):
    return [pytest.param(name, value, id=f"{name}-{spelt(value):.40}") for name in values for value in values[name]]


def test_every_option_is_tried_below():
    """The tables above, the options and the types name the same options, in the same order."""
    assert list(GOOD) == list(BAD) == list(OPTIONS) == list(get_type_hints(Options))


def test_a_new_option_is_one_row_of_the_table(monkeypatch):
    """With that row alone, policies, the setting, `@once` and what a request gets know the option."""
    row = "    echo: bool = option(False, values.boolean, for_events=True)\n"
    source = Path(policy.__file__).read_text()
    with_row = types.ModuleType("policy_with_echo")
    monkeypatch.setitem(sys.modules, with_row.__name__, with_row)
    before = "    max_body: int = option("
    exec(compile(source.replace(before, row + before), policy.__file__, "exec"), vars(with_row))  # noqa: S102 the table, with one row more

    assert with_row.Policy(echo=True).options == {"echo": True}
    with pytest.raises(PolicyError, match=r"IDEMPOTENCY: option 'echo' must be True or False, not 1\."):
        with_row.check_options({"echo": 1}, "IDEMPOTENCY")
    assert "echo" in with_row.ONCE_OPTIONS
    assert [with_row.resolve([level], import_string).echo for level in ({}, {"echo": True})] == [False, True]


def test_no_other_module_lists_options():
    """Outside of the table no tuple, list, set or dict of the package names three options or more."""
    lists = []
    for path in sorted({*PACKAGE.rglob("*.py")} - {*PACKAGE.glob("testing/**/*.py")}):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
            names = {part.value for part in parts if isinstance(part, ast.Constant)} & {*OPTIONS} - AMBIGUOUS
            if len(names) > 2:
                lists.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {sorted(names)}")

    assert lists == []


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_a_good_value_is_taken(name, value):
    """Each option takes what its documentation says."""
    assert name in Policy(**{name: value}).options


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_a_bad_value_is_an_error_that_names_the_option(name, value):
    """Where it was given, which option, what it must be and what it is."""
    with pytest.raises(PolicyError) as caught:
        check_options({name: value}, "@idempotent")

    message = str(caught.value)
    assert message.startswith(f"@idempotent: option {name!r} ")
    assert repr(value) in message
    with pytest.raises(PolicyError, match=name):
        Policy(**{name: value})


@pytest.mark.parametrize(
    ("name", "meant"), [("requierd", "required"), ("tll", "ttl"), ("should_save", "should_store"), ("Header", "header")]
)
def test_an_unknown_option_suggests_the_one_that_is_meant(name, meant):
    """A misspelling is an error, and its message knows better."""
    with pytest.raises(PolicyError, match=rf"has no option '{name}'\. Did you mean '{meant}'\?"):
        Policy(**{name: True})


def test_an_unknown_option_that_resembles_none_lists_them_all():
    """Without a near name the message shows what there is."""
    with pytest.raises(PolicyError) as caught:
        Policy(zzzzzz=1)

    assert all(name in str(caught.value) for name in DEFAULTS)


def test_an_option_that_does_not_serve_here_is_unknown_here():
    """`@once` takes no header."""
    with pytest.raises(PolicyError, match="@once has no option 'header'"):
        Policy.at("@once", {"header": "X"}, ("key", "ttl"))


LEVELS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "required": st.booleans(),
            "ttl": st.integers(1, 1000).map(lambda seconds: timedelta(seconds=seconds)),
            "store": st.sampled_from(["a", "b"]),
            "max_body": st.integers(1, 1000),
            "docs_url": st.sampled_from(["/a", "/b"]) | st.none(),
        },
    ),
    max_size=4,
)


@given(LEVELS)
def test_the_nearest_level_wins(levels):
    """For each option on its own; an option that no level gives has its default."""
    resolved = resolve([Policy(**level).options for level in levels], import_string)

    for name in ("required", "store", "max_body", "docs_url", "ttl"):
        given_ = [level[name] for level in levels if name in level]
        expected = given_[-1] if given_ else DEFAULTS[name]
        assert getattr(resolved, name) == (expected.total_seconds() if name == "ttl" else expected)


def test_none_resets_an_option_to_its_default():
    """A view can take back what the setting says."""
    assert resolve([{"docs_url": "/a"}, Policy(docs_url=None).options], import_string).docs_url is None


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.dotted])
def test_dotted_paths_are_imported_once_resolved(name):
    """A setting names callables by their paths."""
    partner = {"record": "replay", "replay": "record"}.get(name, name)

    assert getattr(resolve([{partner: DOTTED_PATH}, {name: DOTTED_PATH}], import_string), name) is chosen


@pytest.mark.parametrize(("given", "missing"), [("record", "replay"), ("replay", "record")])
def test_record_and_replay_need_each_other(given, missing):
    """From whatever levels they come: one of them alone would store what nobody can render, or render nothing."""
    with pytest.raises(PolicyError, match=rf"Option '{given}' needs the option '{missing}'"):
        resolve([{missing: chosen}, {given: chosen, missing: None}], import_string)

    assert resolve([{missing: chosen}, {given: chosen}], import_string).record is chosen


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tests.unit.test_policy.missing", "cannot be imported"),
        ("tests.no_such_module.x", "cannot be imported"),
        ("tests.unit.test_policy.NOT_CALLABLE", "is not callable"),
    ],
)
def test_a_path_that_leads_nowhere_names_option_and_path(path, says):
    """It is an error at start-up, not at the first request."""
    with pytest.raises(PolicyError, match=rf"Option 'scope': '{path}' {says}"):
        resolve([{"scope": path}], import_string)


def test_what_a_request_needs_is_made_once():
    """Units fixed, patterns compiled, the header's WSGI name known."""
    resolved = resolve(
        [{"ttl": timedelta(minutes=1), "in_flight": "wait", "key_format": r"\d+", "header": "X-Request-Key"}],
        import_string,
    )

    assert isinstance(resolved, ResolvedPolicy)
    assert (resolved.ttl, resolved.wait, resolved.meta_name) == (60.0, True, "HTTP_X_REQUEST_KEY")
    assert resolved.key_format("12")
    assert not resolved.key_format("x")


def test_methods_are_compared_in_capitals():
    """HTTP's methods are upper case; people's are not."""
    assert Policy(methods=["put", "POST"]).options["methods"] == {"PUT", "POST"}


def test_a_policy_shows_its_options():
    """In a shell and in a test's failure."""
    assert repr(Policy(required=True)) == "Policy(required=True)"


def test_a_policy_cannot_be_changed():
    """It is shared by every request of a view."""
    with pytest.raises(TypeError):
        Policy(required=True).options["required"] = False


def test_equal_policies_are_equal():
    """Whatever the order of their options; a value that cannot be hashed counts like any other."""

    class Guard:
        def __eq__(self, other):
            return isinstance(other, Guard)

        def __call__(self, request, record):
            pass

    one = Policy(required=True, methods=["POST"], replay_guard=Guard())
    other = Policy(replay_guard=Guard(), methods=("post",), required=True)

    assert one == other
    assert hash(one) == hash(other)
    assert one != Policy(required=True)
    assert one != {"required": True}


def test_many_distinct_policies_are_told_apart_by_their_hashes(monkeypatch):
    """A request finds its policy among those of 1,000 views without comparing it with any other."""
    policies = [Policy(max_body=number, scope=lambda request: "tenant") for number in range(1, 1001)]
    resolved = [conf.resolved(policy) for policy in policies]
    comparisons = []
    equal = Policy.__eq__
    monkeypatch.setattr(Policy, "__eq__", lambda self, other: comparisons.append(self) or equal(self, other))

    assert [conf.resolved(policy) for policy in policies] == resolved
    assert comparisons == []
