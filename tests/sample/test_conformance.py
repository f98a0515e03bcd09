"""The conformance kit's view of the project, over HTTP."""

import json
from pathlib import Path

import pytest
from rest_framework.authtoken.models import Token

from django_idempotency.conformance.__main__ import main
from sample_project.payments.models import Account

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.django_db(transaction=True)
def test_nothing_fails(ann, bob, account, live_server, monkeypatch, capsys, tmp_path):
    """No MUST, no SHOULD, no expectation: `conformance.json` is what a reader would run."""
    others = Account.objects.create(owner=bob, name="Current", currency="EUR", balance=10_000)
    for name, value in {
        "TOKEN": Token.objects.create(user=ann).key,
        "ACCOUNT": str(account.pk),
        "OTHER_TOKEN": Token.objects.create(user=bob).key,
        "OTHER_ACCOUNT": str(others.pk),
    }.items():
        monkeypatch.setenv(name, value)

    file, report = REPOSITORY / "sample_project" / "conformance.json", tmp_path / "report.json"
    code = main([live_server.url, "--request", str(file), "--strict", "--json", str(report)])

    assert code == 0, capsys.readouterr().out
    results = {check["id"]: check["result"] for check in json.loads(report.read_text())["checks"]}
    skipped = {id for id, result in results.items() if result == "not applicable"}
    # No answer sets a cookie, no document is read, and on SQLite duplicates wait.
    assert skipped <= {"key-optional", "retry-cookies", "expiry", "race-problem", "race-retry-after"}
