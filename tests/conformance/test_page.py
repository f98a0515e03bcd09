"""The page about the kit: its table has the checks of the code, and its file is one that the kit takes."""

import json
import re

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
