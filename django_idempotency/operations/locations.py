"""Where records are, for operators: the databases, and the stores beside them."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from django.utils.translation import gettext as _

from django_idempotency import conf
from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import UNSETTLED, IdempotencyRecord
from django_idempotency.operations import records as maintenance
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault, Store
from django_idempotency.stores.database import DatabaseStore

logger = logging.getLogger("django_idempotency")

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    The table in the database *using*, or a store that has no table there: then *using* is None.

    What the server raises propagates from each verb.
    """

    alias: str  # of a store: of several that share the table the first
    using: str | None

    def __str__(self) -> str:
        return f"store {self.alias!r}" if self.using is None else f"database {self.using!r}"

    @property
    def store(self) -> Store:
        return stores[self.alias]

    def find(self, digest: bytes) -> IdempotencyRecord | None:
        """What is stored for the identity *digest*, with the place's own time as `now`; not what is in flight."""
        return self.store.find(self.using, digest)

    def unsettled(self, limit: int) -> list[IdempotencyRecord]:
        """At most *limit* executions whose outcome is not known, the oldest first."""
        return self.store.unsettled(self.using, limit)

    def free(self, record: IdempotencyRecord) -> bool:
        """`maintenance.free`, of this execution."""
        return maintenance.free(record, using=self.using, store=self.alias)

    def settle(self, record: IdempotencyRecord, answer: CompletionRecord) -> bool:
        """`maintenance.settle`, of this execution."""
        return maintenance.settle(record, answer, using=self.using, store=self.alias)

    def meanwhile(self, record: IdempotencyRecord) -> str:
        """Why *record*, which was unsettled, could not be changed, in words; empty where it seems to be so still."""
        try:
            now = self.find(bytes(record.digest))
        except Exception as error:  # the caller has an error to tell already
            logger.warning("The %s does not answer: %s", self, error)
            return ""
        if now is None:
            return _("its request is in flight again, or it was freed meanwhile.")
        if now.executed_at != record.executed_at:
            return _("the key was used again since.")
        if now.status != UNSETTLED:
            return _("it was settled meanwhile, or its request has answered after all.")
        return ""

    def is_away(self, error: Exception) -> bool:
        """Does *error* say that the server does not answer, or is busy?"""
        return self.store.classify(self.using, error) is not Fault.OTHER


def tables(databases: Iterable[str]) -> list[Place]:
    """A place for each of *databases*. Raises `PolicyError` for a store that cannot be made."""
    alias = next(filter(_has_table, conf.stores()), None)
    return [Place(alias=alias, using=using) for using in databases if alias is not None]


def others() -> dict[str, Place]:
    """The stores that have no table, by alias. Raises `PolicyError` for one that cannot be made."""
    return {alias: Place(alias=alias, using=None) for alias in conf.stores() if not _has_table(alias)}


def asked(
    places: Iterable[Place], question: Callable[[Place], Answer]
) -> tuple[list[tuple[Place, Answer]], list[tuple[Place, Exception]]]:
    """The answers of all *places* that answer the *question*, and the errors of the others."""
    answers: list[tuple[Place, Answer]] = []
    errors: list[tuple[Place, Exception]] = []
    for place in places:
        try:
            answers.append((place, question(place)))
        except Exception as error:  # whatever it is, the caller tells it, and the others are to be asked
            errors.append((place, error))
    return answers, errors


def unsettled(
    places: Iterable[Place], limit: int
) -> tuple[list[tuple[Place, IdempotencyRecord]], list[tuple[Place, Exception]]]:
    """At most *limit* executions whose outcome is not known, of all *places*, the oldest first; and errors."""
    answers, errors = asked(places, lambda place: place.unsettled(limit))
    found = [(place, record) for place, records in answers for record in records]
    return sorted(found, key=lambda each: (each[1].executed_at, bytes(each[1].digest)))[:limit], errors


def _has_table(alias: str) -> bool:
    return isinstance(stores[alias], DatabaseStore)
