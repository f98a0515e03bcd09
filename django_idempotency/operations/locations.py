"""Where an operator's records are: the tables in the databases, and the stores outside them."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from django.db import connections, router
from django.utils.translation import gettext as _

from django_idempotency import conf
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault
from django_idempotency.stores.database.rows import read_rows
from django_idempotency.stores.schemas import public_schema, schema_of, schemas_with
from django_idempotency.stores.stored import STORE, Location, StoredRecord

logger = logging.getLogger("django_idempotency")

Answer = TypeVar("Answer")
Error = tuple[Location, Exception]

TABLE = IdempotencyRecord._meta.db_table
IDENTITY = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_PK = re.compile(rf"(?P<digest>{IDENTITY.pattern})(?:@(?P<where>.+))?", re.IGNORECASE | re.DOTALL)


def usual_database() -> str:
    """The alias of the database that records are written to by default; a replica may lag behind it."""
    return router.db_for_write(IdempotencyRecord)


def possible_databases() -> list[str]:
    """The aliases that may hold records, by the project's routers, the usual one first."""
    usual = usual_database()
    return [usual, *(each for each in connections if each != usual and _may_have_table(each))]


def has_table(alias: str) -> bool:
    """Is the table of records in the database *alias*? The routers may allow it where it does not exist."""
    if alias == usual_database():
        return True
    if alias not in connections.settings or not _may_have_table(alias):
        return False
    return TABLE in connections[alias].introspection.table_names()


def _may_have_table(alias: str) -> bool:
    return bool(router.allow_migrate_model(alias, IdempotencyRecord))


def database(using: str) -> Location | None:
    """The table in the database *using*, in the schema of its connection; None if no store keeps records in tables."""
    store = next((stores[alias] for alias in conf.stores() if stores[alias].has_table), None)
    return None if store is None else Location(store=store, using=using, schema=schema_of(using))


def tables(using: str, schemas: Sequence[str] = ()) -> list[Location]:
    """
    The table in the database *using*. If that keeps tenants in schemas, the tables in *schemas*; by default the one in
    the connection's own schema, or all of them if that is the public one.

    Raises `LookupError` for a schema without the table, `PolicyError` for a store whose setting is wrong.
    """
    location = database(using)
    if location is None:
        return []
    if location.schema is None:
        if schemas:
            raise LookupError(f"The database {using!r} keeps no tenants in schemas.")
        return [location]
    if not schemas and location.schema != public_schema():
        return [location]
    found = schemas_with(using, TABLE)
    for schema in schemas:
        if schema not in found:
            names = ", ".join(found) or "none"
            raise LookupError(f"The schema {schema!r} of database {using!r} has no table {TABLE}; it is in {names}.")
    return [replace(location, schema=schema) for schema in schemas or found]


def others() -> dict[str, Location]:
    """The stores outside the databases, by alias. Raises `PolicyError` for one whose setting is wrong."""
    return {alias: Location(store=stores[alias]) for alias in conf.stores() if not stores[alias].has_table}


def parse(pk: str) -> tuple[Location, bytes] | None:
    """The location and the identity of which *pk* is the `Location.pk`, or None."""
    found = _PK.fullmatch(pk)
    if found is None:
        return None
    digest, where = bytes.fromhex(found["digest"]), found["where"] or usual_database()
    if where.startswith(STORE):
        location = others().get(where.removeprefix(STORE))
    else:
        location = database(where) if has_table(where) else None
    return None if location is None else (location, digest)


def ask(
    locations: Iterable[Location], question: Callable[[Location], Answer]
) -> tuple[list[tuple[Location, Answer]], list[Error]]:
    """The answers to *question* of all *locations* that answer, and the errors of the others."""
    answers: list[tuple[Location, Answer]] = []
    errors: list[Error] = []
    for location in locations:
        try:
            answers.append((location, question(location)))
        except Exception as error:  # the caller reports it, and the others are still asked
            errors.append((location, error))
    return answers, errors


def find_unsettled(locations: Iterable[Location], limit: int) -> tuple[list[StoredRecord], list[Error]]:
    """At most *limit* unsettled outcomes of all *locations*, the oldest first; and errors."""
    answers, errors = ask(locations, lambda location: location.unsettled(limit))
    found = [record for _location, records in answers for record in records]
    return sorted(found, key=lambda record: (record.executed_at, record.digest))[:limit], errors


def find_interrupted(locations: Iterable[Location], limit: int) -> tuple[list[StoredRecord], list[Error]]:
    """At most *limit* interrupted runs in the databases among *locations*, the oldest first; and errors."""
    answers, errors = ask([each for each in locations if each.using is not None], partial(_interrupted, limit=limit))
    found = [record for _location, records in answers for record in records]
    return sorted(found, key=lambda record: (record.executed_at, record.digest))[:limit], errors


def _interrupted(location: Location, limit: int) -> list[StoredRecord]:
    with location.selected():
        found = IdempotencyRecord.objects.using(location.using).interrupted().order_by("executed_at", "digest")
        return read_rows(location, found[:limit])


def explain_refusal(record: StoredRecord) -> str:
    """Why *record*, which was unsettled, could not be changed; empty if it still is unsettled."""
    try:
        now = record.location.find(record.digest)
    except Exception as error:  # the caller reports an error already
        logger.warning("The %s does not answer: %s", record.location, error)
        return ""
    if now is None:
        return _("its request is in flight again, or its key was freed in the meantime.")
    if now.executed_at != record.executed_at:
        return _("the key has been used again since.")
    if not now.is_unsettled:
        return _("it was settled in the meantime, or its request has answered after all.")
    return ""


def is_away(location: Location, error: Exception) -> bool:
    """Does *error* say that the server does not answer, or is busy?"""
    return location.classify(error) is not Fault.OTHER
