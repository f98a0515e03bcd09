"""The command: its exit codes, its three reports, and what it says of a file or a server that it cannot use."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from django_idempotency.conformance.__main__ import main
from django_idempotency.conformance.checks.base import Check, Level, failed
from django_idempotency.conformance.report import as_junit
from django_idempotency.conformance.run import Finding
from tests.conformance.server import serving

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("request.json")
REQUEST = json.loads(FILE.read_text())


@pytest.fixture
def run(capsys):
    """Run the command: its exit code, and what it printed."""

    def run(*arguments):
        code = main([str(each) for each in arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def file_with(tmp_path):
    """A request file with other members; None leaves one out."""

    def file_with(**changes):
        path = tmp_path / "request.json"
        path.write_text(json.dumps({name: each for name, each in {**REQUEST, **changes}.items() if each is not None}))
        return path

    return file_with


@pytest.mark.parametrize(
    ("mistake", "code", "strict_code"),
    [("", 0, 0), ("reuse is 409", 0, 1), ("replays no headers", 0, 1), ("ignores the payload", 1, 1)],
)
def test_the_exit_code_says_whether_a_must_fails(run, mistake, code, strict_code):
    """With --strict, whether anything does."""
    with serving(mistake) as (url, _):
        assert run(url, "--request", FILE)[0] == code
        assert run(url, "--request", FILE, "--strict")[0] == strict_code


def test_the_reports_agree(run, tmp_path):
    """Table, JSON and JUnit XML have the same checks with the same results."""
    with serving("replays another body") as (url, _):
        _, printed = run(url, "--request", FILE, "--json", tmp_path / "r.json", "--junit", tmp_path / "r.xml")

    checks = json.loads((tmp_path / "r.json").read_text())["checks"]
    results = {check["id"]: check["result"] for check in checks}
    assert {id for id, result in results.items() if result == "fail"} == {"retry-body"}
    lines = [line.split() for line in printed.splitlines() if line.startswith(("pass ", "FAIL ", "n/a "))]
    assert len(lines) == len(checks)
    assert ["FAIL", "SHOULD", "2.6", "retry-body"] in [line[:4] for line in lines]
    assert "SHOULD: 9 pass, 1 fail" in printed

    suites = ElementTree.parse(tmp_path / "r.xml").getroot()  # noqa: S314 - written by us
    (suite,) = suites
    assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
    assert len(suite) == len(checks)
    for each in (suites, suite):
        assert (each.attrib["tests"], each.attrib["failures"]) == (str(len(checks)), "1")
        assert (each.attrib["errors"], each.attrib["skipped"]) == ("0", "1")
    for check, case in zip(checks, suite, strict=True):
        assert case.tag == "testcase"
        assert case.attrib["classname"] == f"conformance.{check['level']}"
        assert case.attrib["name"].startswith(f"{check['id']}: ")
        assert [child.tag for child in case] == {
            "pass": ["system-out"],
            "fail": ["failure"],
            "not applicable": ["skipped"],
        }.get(check["result"])


def test_a_report_that_cannot_be_written_is_told(run, tmp_path):
    """After the table, which is not lost."""
    with serving() as (url, _):
        code, printed = run(url, "--request", FILE, "--json", tmp_path / "none" / "r.json")

    assert code == 2
    assert "MUST: 4 pass" in printed
    assert "The report cannot be written" in printed


def test_junit_is_xml_whatever_a_server_says():
    """Characters that XML does not take are replaced."""
    check = Check(id="x", level=Level.MUST, section="2.7", sentence="It is.", judge=lambda seen: failed(""))

    text = as_junit([Finding(check, failed("\x00\x1b<&\ud800 end"))], url="http://x")

    (failure,) = ElementTree.fromstring(text).iter("failure")  # noqa: S314 - written by us
    assert failure.attrib["message"].endswith("<&\ufffd end")


def test_a_dry_run_sends_nothing(run):
    """It lists what would be sent, and the largest number of requests is the sum."""
    with serving() as (url, state):
        code, printed = run(url, "--request", FILE, "--dry-run")

        assert (code, state.payments) == (0, 0)
    first, *lines = printed.splitlines()
    assert f"at most {sum(int(line.split()[0]) for line in lines)} requests" in first


def test_no_more_is_sent_than_allowed(run):
    """The limit holds before the first request."""
    with serving() as (url, state):
        code, printed = run(url, "--request", FILE, "--max-requests", "20")

        assert (code, state.payments) == (2, 0)
    assert "raise --max-requests" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pth": "/"}, "`pth` is unknown. Did you mean `path`?"),
        ({"path": None}, "`path` must be a path that begins with /"),
        ({"path": "payments"}, "`path` must be a path that begins with /"),
        ({"path": "/two words"}, "`path` must be a path that begins with /, in ASCII without spaces."),
        ({"headers": {"X": 1}}, "`headers.X` must be a string."),
        ({"required": "yes"}, "`required` must be true or false."),
        ({"vary": {"/price": 6}}, "`vary` names /price, which `body` does not have."),
        ({"vary": {"amount": 6}}, "'amount' is not a JSON pointer"),
        ({"vary": {"/amount": 5}}, "`vary` gives /amount the value that it has in `body`."),
        ({"vary": "other"}, "`vary` must be an object of JSON pointers"),
        ({"body": "text", "vary": "text"}, "`vary` must be another text"),
        ({"effects": {"pointer": "/count"}}, "`effects.path` must be a path"),
        ({"effects": {"path": "/", "count": 1}}, "`effects.count` is unknown."),
        ({"headers": {"Authorization": "{{env:NOT_SET}}"}}, "the environment variable NOT_SET is not set"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(run, file_with, monkeypatch, changes, message):
    """Before anything is sent."""
    monkeypatch.delenv("NOT_SET", raising=False)

    code, printed = run("http://127.0.0.1:9", "--request", file_with(**changes))

    assert code == 2
    assert message in printed


def test_a_file_that_is_no_json_or_not_there(run, tmp_path):
    """Both are errors with the file's name."""
    (tmp_path / "a.json").write_text("{")

    assert "a.json is not JSON" in run("http://127.0.0.1:9", "--request", tmp_path / "a.json")[1]
    assert "b.json cannot be read" in run("http://127.0.0.1:9", "--request", tmp_path / "b.json")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"headers": {}}, 'must succeed (2xx) before anything can be examined. It is answered with 401 {"title"'),
        ({"effects": {"path": "/payments/", "pointer": "/sum"}}, "has nothing at /sum"),
        ({"effects": {"path": "/docs"}}, "has nothing at its root"),
        ({"effects": {"path": "/payments/"}}, "must have a whole number or a list at its root"),
    ],
)
def test_a_server_that_cannot_be_examined_says_why(run, file_with, changes, message):
    """With what it answered, and exit code 2."""
    with serving() as (url, _):
        code, printed = run(url, "--request", file_with(**changes))

    assert code == 2
    assert message in printed


def test_a_server_that_is_not_there(run):
    """The URL is in the message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    code, printed = run(url, "--request", FILE)

    assert code == 2
    assert f"{url} cannot be examined. No connection" in printed
    assert "is not the URL of a server" in run("127.0.0.1:80", "--request", FILE)[1]


def test_a_secret_comes_from_the_environment(run, file_with, monkeypatch):
    """So that the file can be committed."""
    monkeypatch.setenv("TOKEN", "ann-0001")
    with serving() as (url, _):
        path = file_with(headers={"Authorization": "Token {{env:TOKEN}}"})

        assert run(url, "--request", path, "--strict")[0] == 0


def test_it_runs_without_settings_of_django():
    """As a program of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-m", "django_idempotency.conformance", "http://127.0.0.1:9", "--request", FILE]

    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
