"""The checker of the fault suite, on logs and tables made by hand: it sees each way in which the law can be broken."""

import json
import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import checker
from benchmarks.faults.checker import Contents, judge, lines_of
from benchmarks.faults.journal import Journal

DIGEST, OTHER = sha256(b"an answer").hexdigest(), sha256(b"another").hexdigest()


def answer(effect: int = 1, digest: str = DIGEST) -> dict[str, Any]:
    return {"key": "k", "status": 201, "digest": digest, "effect": effect, "code": None}


def refusal(status: int, code: str | None = None) -> dict[str, Any]:
    return {"key": "k", "status": status, "digest": OTHER, "effect": None, "code": code}


LOST = {"key": "k", "status": None}
EXPIRED = {"key": "k", "expired": True}
PAID = [(1, "k")]
KEPT = [("k", 201, DIGEST)]


def kinds(log: list[dict[str, Any]], effects: list[tuple[int, str]], records: list[tuple[str, int, str]]) -> set[str]:
    return set(judge(log, Contents(effects=effects, records=records)).violations)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param([answer()], id="at once"),
        pytest.param([LOST, LOST, answer(), answer()], id="lost answers"),
        pytest.param([refusal(503, "store-unavailable"), refusal(500), answer()], id="failures before"),
        pytest.param([refusal(409, "request-in-progress"), answer(), refusal(500)], id="a failure after"),
    ],
)
def test_what_the_law_allows(log):
    """Attempts without an answer, refusals and failures are no violation where one effect, record and answer remain."""
    assert kinds(log, PAID, KEPT) == set()


PHASED = answer() | {"charge": "c1", "shipment": 2}


@pytest.mark.parametrize(
    ("effects", "charges", "violations"),
    [
        ([*PAID, (2, "k/shipment")], [("c1", "k")], set()),
        ([*PAID, (2, "k/shipment")], [("c1", "k"), ("c2", "k")], {checker.MORE_CHARGES}),
        ([*PAID, (2, "k/shipment"), (3, "k/shipment")], [("c1", "k")], {checker.MORE_EFFECTS}),
        ([*PAID, (2, "k/shipment")], [("c2", "k")], {checker.NO_EFFECT}),
        ([*PAID], [("c1", "k")], {checker.NO_EFFECT}),
    ],
)
def test_the_phases_of_a_key_take_effect_once(effects, charges, violations):
    """One charge and one shipment, which are those that the answer names."""
    contents = Contents(effects=effects, records=KEPT, charges=charges)

    assert set(judge([LOST, PHASED], contents).violations) == violations


def test_a_gateway_is_read(tmp_path):
    """Two lines for each charge; a draft is none."""
    (tmp_path / "key").write_text("k\nc1")
    (tmp_path / ".draft").write_text("k\nc2")

    assert list(checker.charges_at(tmp_path)) == [("c1", "k")]


def test_an_expired_record_makes_a_key_a_new_one():
    """A key whose record was made to expire may take effect once more, and not twice."""
    log = [answer(), EXPIRED, answer(2, OTHER)]
    kept = [("k", 201, OTHER)]

    assert kinds(log, [(1, "k"), (2, "k")], kept) == set()
    assert kinds(log, [(1, "k"), (2, "k"), (3, "k")], kept) == {checker.MORE_EFFECTS}
    assert kinds([*log, answer(2, DIGEST[::-1])], [(1, "k"), (2, "k")], kept) == {checker.MORE_ANSWERS}


@pytest.mark.parametrize(
    ("log", "effects", "records", "wanted"),
    [
        pytest.param([answer()], [*PAID, (2, "k")], KEPT, {checker.MORE_EFFECTS}, id="two effects"),
        pytest.param([answer(), answer(1, OTHER)], PAID, KEPT, {checker.MORE_ANSWERS}, id="two answers"),
        pytest.param([answer()], [], [], {checker.NO_EFFECT}, id="answer without anything"),
        pytest.param([answer(7)], PAID, KEPT, {checker.NO_EFFECT}, id="answer of another effect"),
        pytest.param([answer()], PAID, [], {checker.NO_RECORD}, id="effect without record"),
        pytest.param([answer()], [], KEPT, {checker.NO_WORK, checker.NO_EFFECT}, id="record without effect"),
        pytest.param([answer(1, OTHER)], PAID, KEPT, {checker.NOT_THE_RECORD}, id="answer that is not the record's"),
        pytest.param(
            [refusal(409, "outcome-unknown")],
            [],
            [("k", 0, DIGEST)],
            {checker.LEFT, checker.UNANSWERED},
            id="claim left",
        ),
        pytest.param([LOST, refusal(503)], [], [], {checker.UNANSWERED}, id="no final answer"),
        pytest.param([refusal(422, "key-reused"), answer()], PAID, KEPT, {checker.UNEXPECTED}, id="unpromised answer"),
    ],
)
def test_what_the_checker_reports(log, effects, records, wanted):
    """Each way in which the law can be broken has a name, and is reported under it alone."""
    assert kinds(log, effects, records) == wanted


def before(line: dict[str, Any]) -> dict[str, Any]:
    return line | {"at": 1.0}


def after(line: dict[str, Any]) -> dict[str, Any]:
    return line | {"at": 3.0}


FAILED_OVER = {"failed over": True, "at": 2.0}


@pytest.mark.parametrize(
    ("log", "effects", "records"),
    [
        pytest.param([before(answer()), FAILED_OVER], [], [], id="not asked for again"),
        pytest.param(
            [before(answer()), FAILED_OVER, after(answer(2, OTHER))], [(2, "k")], [("k", 201, OTHER)], id="again"
        ),
    ],
)
def test_what_a_failover_may_lose(log, effects, records):
    """An answer from before it whose effect and record are both gone is counted, and is no violation."""
    verdict = judge(log, Contents(effects=effects, records=records))

    assert verdict.violations == {}
    assert verdict.lost_whole == 1


@pytest.mark.parametrize(
    ("log", "effects", "records", "wanted"),
    [
        pytest.param([before(answer()), FAILED_OVER], PAID, [], {checker.NO_RECORD}, id="the record alone"),
        pytest.param([before(answer()), FAILED_OVER], [], KEPT, {checker.NO_WORK}, id="the effect alone"),
        pytest.param(
            [before(answer()), FAILED_OVER, after(answer(2, OTHER))], [(2, "k")], KEPT,
            {checker.NO_WORK, checker.NOT_THE_RECORD}, id="the effect alone, and another one took place",
        ),
        pytest.param(
            [before(answer()), before(answer(1, OTHER)), FAILED_OVER], [], [], {checker.MORE_ANSWERS}, id="two answers"
        ),
        pytest.param([FAILED_OVER, after(answer())], [], [], {checker.NO_EFFECT}, id="lost after it"),
    ],
)  # fmt: skip
def test_what_a_failover_may_not_lose(log, effects, records, wanted):
    """Half of what was done, and what was answered after it."""
    assert kinds(log, effects, records) == wanted


def test_a_read_only_server_is_no_500():
    """What a standby refuses was not done, and the answer has to say so."""
    assert kinds([refusal(500, "25006"), answer()], PAID, KEPT) == {checker.UNEXPECTED}


@pytest.mark.parametrize(("rows", "wanted"), [("(1, 'k')", 0), ("(1, 'k'), (2, 'k')", 1)], ids=["alike", "one more"])
def test_nodes_are_compared(tmp_path, monkeypatch, rows, wanted):
    """A row that one node has alone, when it has had the time to pass it on, is a violation."""
    monkeypatch.setattr(checker, "CATCHES_UP", 0.0)
    urls = []
    for number, payments in enumerate(["(1, 'k')", rows]):
        connection = sqlite3.connect(tmp_path / f"{number}.sqlite3")
        connection.executescript(
            f"""
            CREATE TABLE app_payment (id integer, reference text);
            CREATE TABLE django_idempotency_record ("key" text, status integer, body blob);
            INSERT INTO app_payment VALUES {payments};
            """
        )
        connection.close()
        urls.append(f"sqlite:///{tmp_path}/{number}.sqlite3")

    assert len(checker.differences(*urls)) == wanted


def test_other_keys_are_not_mixed_up():
    """A key is judged by its own effects, records and attempts."""
    other = {**answer(2), "key": "other"}

    verdict = judge(
        [answer(), other], Contents(effects=[(1, "k"), (3, "other")], records=[*KEPT, ("other", 201, DIGEST)])
    )

    assert verdict.keys == verdict.attempts == 2
    assert list(verdict.violations) == [checker.NO_EFFECT]
    assert verdict.violations[checker.NO_EFFECT][0].startswith("other:")


def test_the_log_of_a_killed_client_is_read(tmp_path):
    """A line that was cut off when its writer was killed is no attempt; what the clients write the checker can read."""
    journal = Journal(tmp_path / "log")
    journal.answer("k", 201, b'{"id": 1}')
    journal.answer("k", 500, b"<html>")
    journal.answer("k", None)
    journal.expired("k")
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"key": "k", "sta')

    lines = list(lines_of(journal.path))

    assert [line.get("status") for line in lines] == [201, 500, None, None]
    assert lines[0]["effect"] == 1
    assert lines[0]["digest"] == sha256(b'{"id": 1}').hexdigest()
    assert lines[3]["expired"]


def test_the_checker_reads_a_database_by_itself(tmp_path):
    """Run as a program, it compares a database with a log, says what is wrong, and ends with an error."""
    database, log = tmp_path / "database.sqlite3", tmp_path / "log"
    connection = sqlite3.connect(database)
    connection.executescript(
        """
        CREATE TABLE app_payment (id integer, reference text);
        CREATE TABLE django_idempotency_record ("key" text, status integer, body blob);
        INSERT INTO app_payment VALUES (1, 'k'), (2, 'k');
        INSERT INTO django_idempotency_record VALUES ('k', 201, CAST('an answer' AS blob));
        """
    )
    connection.close()
    log.write_text(json.dumps(answer()) + "\n")

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults.checker", f"sqlite:///{database}", log],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1, done.stderr
    assert "1 keys, 1 attempts, 0 without an answer" in done.stdout
    assert "more than one effect: 1, as k: payments [1, 2]" in done.stdout


def test_the_checker_shares_nothing_with_the_load():
    """It imports no module of the fault suite or of the package: it cannot make their mistakes."""
    code = "import sys, benchmarks.faults.checker; print(*sys.modules, sep='\\n')"
    root = Path(__file__).parents[2]
    modules = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout

    own = {name for name in modules.split() if name.startswith(("benchmarks.", "tests", "django"))}
    assert own == {"benchmarks.faults", "benchmarks.faults.checker"}
