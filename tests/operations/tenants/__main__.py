"""`python -m tests.operations.tenants`: what two tenants do, and what operators see of it, as JSON."""

import json
from io import StringIO

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402
from django.test import Client as Browser  # noqa: E402
from django_tenants.utils import schema_context  # noqa: E402

from django_idempotency import once  # noqa: E402
from django_idempotency.models import DatabaseNow, DecisionCount, IdempotencyRecord, StorageSample  # noqa: E402
from django_idempotency.operations import counts  # noqa: E402
from tests.operations.tenants import urls  # noqa: E402
from tests.operations.tenants.models import Client  # noqa: E402

TENANTS = ("tenant_a", "tenant_b")


@once("pay", key=str, scope=lambda event: "shop")
def pay(event):
    return event


def run(*arguments, schema="public"):
    """What a command writes, or its error."""
    out = StringIO()
    with schema_context(schema):
        try:
            call_command(*arguments, stdout=out, stderr=StringIO())
        except CommandError as error:
            return f"CommandError: {error}"
    return out.getvalue()


def in_each(look):
    seen = {}
    for schema in TENANTS:
        with schema_context(schema):
            seen[schema] = look()
    return seen


def main():
    call_command("migrate_schemas", shared=True, run_syncdb=True, verbosity=0)
    for schema in TENANTS:
        Client(schema_name=schema, name=schema).save(verbosity=0)
    counts.counter._due = float("inf")
    for schema, times in zip(TENANTS, (3, 1), strict=True):
        with schema_context(schema):
            for _ in range(times):
                pay("key-1")
    result = {"flushed": counts.flush()}
    result["counts"] = in_each(lambda: list(DecisionCount.objects.values_list("operation", "executions", "replays")))
    result["samples"] = in_each(lambda: list(StorageSample.objects.values_list("records", flat=True)))
    shown = run("idempotency_show", "key-1", "--json")
    result["shown"] = [(each["schema"], each["key"]) for each in json.loads(shown)]
    result["shown inside"] = run("idempotency_show", "key-1", schema="tenant_b")
    identity = json.loads(shown)[0]["identity"]
    in_each(lambda: IdempotencyRecord.objects.update(status=0, head=b"", body=b""))
    result["unsettled"] = run("idempotency_unsettled").count("Unsettled ")
    result["ambiguous"] = run("idempotency_unsettled", "--run-again", identity)
    result["freed"] = run("idempotency_unsettled", "--run-again", identity, "--schema", "tenant_b")
    result["left"] = in_each(IdempotencyRecord.objects.count)
    in_each(lambda: pay("key-2"))
    in_each(lambda: IdempotencyRecord.objects.update(expires_at=DatabaseNow()))
    result["unknown schema"] = run("idempotency_purge", "--schema", "nowhere")
    result["dry run"] = run("idempotency_purge", "--dry-run")
    result["purged inside"] = run("idempotency_purge", "--dry-run", schema="tenant_a")
    result["purged"] = run("idempotency_purge")
    result["left at last"] = in_each(IdempotencyRecord.objects.count)
    for schema in TENANTS:
        urls.failing.append(TimeoutError())
        with schema_context(schema):
            Browser(raise_request_exception=False).post("/join/", headers={"Idempotency-Key": schema})
    result["resumed"] = run("idempotency_resume", "--verbosity", "1")
    result["joined"] = in_each(lambda: list(User.objects.values_list("username", flat=True)))
    result["tenants"] = urls.seen
    print(json.dumps(result))  # noqa: T201 the test reads it


main()
