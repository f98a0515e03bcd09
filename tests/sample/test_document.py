"""The API's OpenAPI document: what the server does is in it, and what is in it the server does."""

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from rest_framework.authtoken.models import Token

from django_idempotency.operations.audit import endpoints
from django_idempotency.protection.placement import DECORATOR, MIDDLEWARE
from sample_project.payments.models import Account, Charge

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def document(tmp_path):
    """In a file, as the project's own command writes it. A warning is an error."""
    path = tmp_path / "document.json"
    call_command("spectacular", "--validate", "--fail-on-warn", "--format=openapi-json", f"--file={path}")
    return path


def test_the_document_tells_of_each_protected_endpoint(document):
    """No view says a word of keys to drf-spectacular, and the document has them where the audit has protection."""
    paths = json.loads(document.read_text())["paths"].values()
    found = [
        (operation, {each["name"]: each for each in operation.get("parameters", [])}.get("Idempotency-Key"))
        for methods in paths
        for method, operation in methods.items()
        if method == "post"
    ]
    told = {operation["operationId"]: header["required"] for operation, header in found if header}

    audited = [
        each
        for each in endpoints()
        if each.protection in (DECORATOR, MIDDLEWARE) and each.method == "POST" and each.route.startswith("api/")
    ]
    assert sorted(told.values()) == sorted("required" in each.options for each in audited)
    assert [operation["operationId"] for operation, header in found if not header] == ["token_create"]
    assert "kept for 7 days" in next(
        header["description"] for operation, header in found if operation["operationId"].endswith("refund_create")
    )


# A valid request may be refused for what is in the database: a key that is in use, another's account, too little money.
EXCLUDED = "positive_data_acceptance"


@pytest.mark.slow
@pytest.mark.skipif(connection.vendor != "sqlite", reason="What is documented does not depend on the database.")
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis", "gateway")
def test_schemathesis_finds_nothing(live_server, ann, account, savings, tmp_path):
    """Requests made of the document, valid and invalid, alone and in sequence, get no answer that is not in it."""
    token = Token.objects.create(user=ann)
    command = [SCRIPTS / "schemathesis", "run", f"{live_server.url}/api/schema/?format=json"]
    options = ["--generation-deterministic", "--max-examples=10", "--no-color", f"--exclude-checks={EXCLUDED}"]
    result = subprocess.run(
        [*command, *options, "--header", f"Authorization: Token {token.key}"],
        cwd=tmp_path,  # it keeps a folder of its own
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert Charge.objects.exists()  # it has found its way


@pytest.mark.django_db(transaction=True)
def test_a_generated_client_sends_the_key(live_server, document, ann, account, tmp_path, monkeypatch):
    """A client that openapi-python-client makes of the document asks for the key, and its retry pays once."""
    command = [SCRIPTS / "openapi-python-client", "generate", "--meta=none", "--fail-on-warning", f"--path={document}"]
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}  # it calls ruff
    folder = tmp_path / "made" / "payments_client"
    folder.parent.mkdir()
    subprocess.run([*command, f"--output-path={folder}"], env=environment, cwd=tmp_path, check=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    client = importlib.import_module("payments_client")
    charges = importlib.import_module("payments_client.api.accounts.accounts_charges_create")
    models = importlib.import_module("payments_client.models")
    token = Token.objects.create(user=ann).key
    body = models.ChargeRequest(amount=1250, currency=models.CurrencyEnum.EUR, reference="order 1")

    with client.AuthenticatedClient(base_url=live_server.url, token=token, prefix="Token") as api:
        pay = partial(charges.sync_detailed, account.pk, client=api, idempotency_key="order-1")
        first, again = pay(body=body), pay(body=body)
        body.amount = 1
        reused = pay(body=body)

    assert (first.status_code, first.parsed.amount) == (201, 1250)
    assert (again.parsed, again.headers["Idempotency-Replayed"]) == (first.parsed, "true")
    assert (reused.status_code, reused.parsed.code) == (422, "key-reused")
    assert Account.objects.get(pk=account.pk).balance == 8750
