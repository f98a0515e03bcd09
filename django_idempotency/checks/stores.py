"""The checks that the stores make: of their configuration, their databases and their servers."""

from collections.abc import Iterable

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import Error

from django_idempotency.checks.settings import needs_setting
from django_idempotency.encryption import NAME
from django_idempotency.operations.inventory import databases_in_use, named_databases, stores_in_use
from django_idempotency.operations.sealed import lost_keys


@register
@needs_setting
def check_stores(**kwargs: object) -> list[CheckMessage]:
    """The messages of the stores about their own configuration."""
    return [
        message for store, policies in stores_in_use().items() for message in store.check(named_databases(policies))
    ]


@register(Tags.database)
@needs_setting
def check_databases(databases: Iterable[str] | None = None, **kwargs: object) -> list[CheckMessage]:
    """The messages about the servers behind those *databases* that the command names."""
    if not databases:
        return []
    wanted = set(databases)
    messages: list[CheckMessage] = []
    for store, policies in stores_in_use().items():
        if store.commits_with_handler:
            largest = max(policy.max_body for policy in policies)
            for using in sorted(wanted & {*named_databases(policies), store.database()}):
                messages += store.check_database(using, largest)
    return messages


@register(Tags.caches, deploy=True)
@needs_setting
def check_servers(**kwargs: object) -> list[CheckMessage]:
    """The messages about the servers behind the stores' caches: only with --deploy, as others may be volatile."""
    return [message for store in stores_in_use() for message in store.check_servers()]


@register(Tags.database, deploy=True)
@needs_setting
def check_keys(databases: Iterable[str] | None = None, **kwargs: object) -> list[CheckMessage]:
    """W025, of the *databases* that the command names. It reads the whole table, so it is for deployments alone."""
    messages: list[CheckMessage] = []
    for using in sorted({*(databases or ())} & {*databases_in_use()}):
        try:
            found = lost_keys(using)
        except Error:  # W004, W007
            continue
        messages += [
            Warning(
                f"Database {using!r}: {count} of its records and requests are encrypted with the key {id!r}, which"
                f" {NAME}['KEYS'] does not have: their retries are refused with 409 outcome-unknown.",
                hint="Keep the key until they have expired and their runs have ended.",
                id="django_idempotency.W025",
            )
            for id, count in found.items()
        ]
    return messages
