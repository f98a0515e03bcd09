"""The pages about the kit: the table has the checks of the code, the file is one that it takes, findings are shown."""

import json
import re

from benchmarks.conformance.page import Entry, page
from django_idempotency.conformance.checks import EXPERIMENTS
from django_idempotency.conformance.requests_file import MEMBERS, described
from tests.docs.pages import DOCS, table, text

PAGE = DOCS / "how-to" / "test-any-server.md"


def test_the_table_has_each_check():
    """Its id, level and sentence, in the order in which they are made."""
    checks = [check for experiment in EXPERIMENTS for check in experiment.checks]

    assert [tuple(row.values()) for row in table(PAGE, "check", "level", "asks")] == [
        (f"`{check.id}`", f"{check.level} {check.section}".strip(), check.sentence) for check in checks
    ]


def test_the_file_is_one(monkeypatch):
    """It has each member but `required`, which is the server's to tell."""
    monkeypatch.setenv("TOKEN", "a")
    monkeypatch.setenv("OTHER_TOKEN", "b")
    (example,) = re.findall(r"```json\n(.*?)```", text(PAGE), re.DOTALL)

    assert set(json.loads(example)) == set(MEMBERS) - {"required"}
    assert described(json.loads(example)).headers["Authorization"] == "Token a"
    assert {name for row in table(PAGE, "member", "meaning") for name in re.findall(r"`(\w+)`", row["member"])} == set(
        MEMBERS
    )


def test_findings_are_shown():
    """How many of each level passed, check by check, and what was seen of those that failed."""
    check = {"id": "reuse-422", "level": "SHOULD", "section": "2.7", "result": "pass", "saw": "422"}
    ours = Entry(name="ours", setting="By default.", versions={"ours": "1.0", "Django": "6.1"}, checks=[check])
    wrong = {**check, "result": "fail", "saw": "417 `no`\n"}
    theirs = Entry(name="theirs", setting="As its README says.", checks=[wrong])
    absent = Entry(name="absent", setting="As its README says.", error="It did not start: why")

    lines = page([ours, theirs, absent]).splitlines()

    assert "| 1 | ours 1.0 on Django 6.1 | 0 of 0 | 1 of 1 | 0 of 0 |" in lines
    assert "| `reuse-422` | SHOULD 2.7 | pass | **fail** |" in lines
    assert "- `reuse-422`: `417 'no'\\n`" in lines
    assert "- absent could not be examined: It did not start: why" in lines
