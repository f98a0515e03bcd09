"""
The statements of phased mode. `core.progress` draws the states of a run.

While a run goes on, its record's row is a claim of status 0, which no other request takes: its body is the owner's
token, and its head the progress. A phase changes this row alone, and only under the token, in the phase's transaction.
The row of `PhasedRun` beside it has the lease, because a renewal of the lease may not meet a phase: at REPEATABLE READ
one of the two would fail.
"""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, Unsettled
from django_idempotency.core.keys import MAX_STRING, UNSTORABLE, Attempt
from django_idempotency.core.progress import Progress
from django_idempotency.core.record import CompletionRecord
from django_idempotency.encryption import seal, seal_answer, unseal
from django_idempotency.models import GIVEN_UP, NO_DOUBT, UNSETTLED
from django_idempotency.stores.base import LostRace
from django_idempotency.stores.database.dialect import RUNS, TABLE, Dialect, claim_values, live, read_row
from django_idempotency.stores.database.dialects import clock_of
from django_idempotency.stores.redis.replay_cache import table_of
from django_idempotency.stores.schemas import in_schema, schema_of

if TYPE_CHECKING:
    from django_idempotency.stores.database.store import DatabaseStore

logger = logging.getLogger("django_idempotency")

NOTHING = Progress().encode()  # never sealed: no phase has a result yet
PROGRESS, SENT = b"progress", b"request"  # places of sealed values
UNREADABLE = "The run of %s cannot be read, because its row was changed or its key is gone: %s"

RUN_TOKEN = 6  # the column of `Statements.LOOK`


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has not ended, as it is stored. *is_held*: its owner's lease has not run out."""

    fingerprint: bytes
    token: str
    attempts: int
    is_held: bool
    is_given_up: bool
    progress: Progress
    head: bytes  # what *progress* is stored as


@dataclass(frozen=True, slots=True)
class Free:
    """The identity is free. *has_row*: an expired record is there, which the claim replaces."""

    has_row: bool


class Statements:
    """The statements for one kind of database, each in the caller's transaction."""

    def __init__(self, dialect: Dialect, connection: BaseDatabaseWrapper) -> None:
        now, later, self.seconds = clock_of(connection.vendor)
        key = connection.ops.quote_name("key")
        mysql = connection.vendor == "mysql"
        # READ UNCOMMITTED shows what may still be rolled back.
        uncommitted = mysql and getattr(connection, "isolation_level", None) == "read uncommitted"
        self.LOOK = (
            f"SELECT r.status, r.fingerprint, r.head, r.body, r.request_id, NOT {live(now, 'r.')},"
            f" n.token, n.attempts, n.doubt, n.ends_at > {now}"
            f" FROM {TABLE} r LEFT JOIN {RUNS} n"
            f" ON r.status = {UNSETTLED} AND n.digest = r.digest AND n.executed_at = r.executed_at"
            f" WHERE r.digest = %s{' LOCK IN SHARE MODE' if uncommitted else ''}"
        )
        # If an atomic request of this key is in flight (the mode was changed), this waits until it has ended.
        self.CLAIM = (
            f"INSERT {'IGNORE ' if mysql else ''}INTO {TABLE} (digest, fingerprint, scope, operation, {key}, request,"
            f" request_id, status, head, body, executed_at, expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s,"
            f" {UNSETTLED}, %s, %s, {now}, {later}){'' if mysql else ' ON CONFLICT (digest) DO NOTHING'}"
        )
        self.CLEAR = f"DELETE FROM {TABLE} WHERE digest = %s AND NOT {live(now)}"
        columns = (
            *("executed_at", "token", "ends_at", "attempts", "doubt", "phase", "error"),
            *("resume_at", "resume_until", "sent"),
        )
        replaced = ", ".join(f"{name} = excluded.{name}" for name in columns)
        self.BEGIN = (
            f"{'REPLACE' if mysql else 'INSERT'} INTO {RUNS} (digest, {', '.join(columns)}) SELECT digest, executed_at,"
            f" %s, {later}, 1, {NO_DOUBT}, '', '', executed_at, {later}, %s FROM {TABLE} WHERE digest = %s"
            f"{'' if mysql else f' ON CONFLICT (digest) DO UPDATE SET {replaced}'}"
        )
        owned = f"digest = %s AND status = {UNSETTLED} AND body = %s"
        of_owner = "digest = %s AND token = %s"
        # Who was frozen in a phase may hold the row, and nobody waits for that.
        self.HOLD = (
            "" if connection.vendor == "sqlite" else f"SELECT 1 FROM {TABLE} WHERE digest = %s FOR UPDATE SKIP LOCKED"
        )
        self.TAKE_OVER = f"UPDATE {TABLE} SET body = %s, uncertain_until = NULL WHERE {owned} AND head = %s"
        self.TAKE_LEASE = (
            f"UPDATE {RUNS} SET token = %s, attempts = attempts + 1, doubt = {NO_DOUBT}, ends_at = {later}"
            f" WHERE {of_owner} AND ends_at <= {now}"
        )
        # A renewal may arrive after the lease was given back.
        self.RENEW = f"UPDATE {RUNS} SET ends_at = {later} WHERE {of_owner} AND ends_at > executed_at"
        self.ADVANCE = f"UPDATE {TABLE} SET head = %s WHERE {owned}"
        self.OWNS = f"SELECT 1 FROM {TABLE} WHERE {owned}"
        self.HOLD_OWN = f"{self.OWNS} FOR UPDATE"
        self.COMPLETE = (
            f"UPDATE {TABLE} SET status = %s, head = %s, body = %s, expires_at = {dialect.EXPIRES} WHERE {owned}"
        )
        self.FORGET = f"DELETE FROM {TABLE} WHERE {owned} AND head = %s"
        self.END = f"DELETE FROM {RUNS} WHERE {of_owner}"
        self.GIVE_BACK = f"UPDATE {RUNS} SET ends_at = executed_at, doubt = %s, phase = %s, error = %s WHERE {of_owner}"
        self.GIVE_UP = (
            f"UPDATE {RUNS} SET doubt = {GIVEN_UP} WHERE {of_owner} AND ends_at <= {now} AND doubt < {GIVEN_UP}"
        )
        self.MAY_EXPIRE = f"UPDATE {TABLE} SET uncertain_until = {later} WHERE {owned}"


class Runs:
    """
    The runs that *store* keeps. The engine opens and commits the transactions of `begin`, `take_over`, `advance`,
    `finish` and `forget`; every other method is one statement. *token* is the owner's.
    """

    def __init__(self, store: "DatabaseStore") -> None:
        self.store = store
        self._statements: dict[str, Statements] = {}

    def statements(self, using: str) -> Statements:
        made = self._statements.get(using)
        if made is None:
            dialect = self.store.dialect(using)
            made = self._statements.setdefault(using, Statements(dialect, connections[using]))
        return made

    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | Run | Free:
        """Find what is stored for the identity, by one plain SELECT. Never `Claimed`."""
        store = self.store
        if store.replay_cache is not None:
            cached = store.replay_cache.get(using, attempt.identity)
            if cached is not None:
                return cached
        with connections[using].cursor() as cursor:
            cursor.execute(self.statements(using).LOOK, (attempt.identity.digest,))
            row = cursor.fetchone()
            if row is None:
                return Free(has_row=False)
            *record, has_expired, token, attempts, doubt, is_held = row
            if token is not None and not (has_expired and doubt == GIVEN_UP):
                return _read_run(record, token, attempts, doubt, bool(is_held), attempt)
            return (
                Free(has_row=True)
                if has_expired
                else store.unless_ended(using, cursor, attempt, read_row(record, attempt))
            )

    def has_run(self, using: str, attempt: Attempt) -> bool:
        """
        Is there a run of the identity that has not ended, even one that cannot be read? A probe of the operation knows
        nothing of its phases.
        """
        with connections[using].cursor() as cursor:
            cursor.execute(self.statements(using).LOOK, (attempt.identity.digest,))
            row = cursor.fetchone()
        return row is not None and row[RUN_TOKEN] is not None

    def begin(self, using: str, attempt: Attempt, free: Free, token: str, lease: float, resume_for: float) -> bool:
        """Claim an identity that was *free*, for *lease* seconds. Raises `LostRace` if it is not so any more."""
        sql = self.statements(using)
        identity = attempt.identity
        digest = identity.digest
        sent = attempt.sent and seal(identity.scope, digest, SENT, attempt.sent)
        with connections[using].cursor() as cursor:
            if free.has_row:
                cursor.execute(sql.CLEAR, (digest,))
            cursor.execute(sql.CLAIM, (*claim_values(attempt), NOTHING, token.encode(), sql.seconds(attempt.occupied)))
            if cursor.rowcount != 1:
                raise LostRace
            until = sql.seconds(resume_for)
            cursor.execute(sql.BEGIN, (int(token), sql.seconds(lease), until, sent, digest))
        return True

    def take_over(self, using: str, attempt: Attempt, run: Run, token: str, lease: float) -> bool:
        """
        Make *token* the owner of *run*. Returns False if the former owner is in the middle of a statement or a COMMIT.

        Raises `LostRace` if the run has changed since it was looked up.
        """
        sql = self.statements(using)
        digest = attempt.identity.digest
        with connections[using].cursor() as cursor:
            if sql.HOLD:
                cursor.execute(sql.HOLD, (digest,))
                if cursor.fetchone() is None:
                    return False
            cursor.execute(sql.TAKE_OVER, (token.encode(), digest, run.token.encode(), run.head))
            if cursor.rowcount != 1:
                raise LostRace
            cursor.execute(sql.TAKE_LEASE, (int(token), sql.seconds(lease), digest, int(run.token)))
            if cursor.rowcount != 1:
                raise LostRace
        return True

    def renew(self, using: str, attempt: Attempt, token: str, lease: float) -> bool:
        """Extend the lease to *lease* seconds from now. Returns False if it has ended, or belongs to another."""
        sql = self.statements(using)
        with connections[using].cursor() as cursor:
            cursor.execute(sql.RENEW, (sql.seconds(lease), attempt.identity.digest, int(token)))
            return bool(cursor.rowcount == 1)

    def enter_phase(self, using: str, attempt: Attempt, token: str, lease: float, *, holds: bool) -> bool:
        """
        Begin a phase's transaction. Returns False if the run has another owner, which is asked only where it *holds*
        the row from now on, so that nobody takes the run over before the transaction ends. SQLite always does: a
        transaction there that reads before it writes may fail if another writes meanwhile.
        """
        if connections[using].vendor == "sqlite":
            return self.renew(using, attempt, token, lease)
        return not holds or self._asks(using, self.statements(using).HOLD_OWN, attempt, token)

    def advance(self, using: str, attempt: Attempt, token: str, progress: Progress) -> bool:
        """Record *progress* in the phase's own transaction. Returns False if the run has another owner."""
        identity = attempt.identity
        head = seal(identity.scope, identity.digest, PROGRESS, progress.encode())
        with connections[using].cursor() as cursor:
            cursor.execute(self.statements(using).ADVANCE, (head, identity.digest, token.encode()))
            return bool(cursor.rowcount == 1)

    def owns(self, using: str, attempt: Attempt, token: str) -> bool:
        """Does the run still belong to *token*?"""
        return self._asks(using, self.statements(using).OWNS, attempt, token)

    def _asks(self, using: str, sql: str, attempt: Attempt, token: str) -> bool:
        with connections[using].cursor() as cursor:
            cursor.execute(sql, (attempt.identity.digest, token.encode()))
            return cursor.fetchone() is not None

    def finish(self, using: str, attempt: Attempt, token: str, record: CompletionRecord) -> bool:
        """Turn the claim into the ordinary *record*. Returns False, to be rolled back, if the run has another owner."""
        sql = self.statements(using)
        identity = attempt.identity
        digest = identity.digest
        answer = seal_answer(identity.scope, digest, record)
        since = time.monotonic()
        with connections[using].cursor() as cursor:
            if attempt.tombstone_ttl:
                self.store.dialect(using).end_answer(cursor, attempt)
            cursor.execute(sql.COMPLETE, (*answer, digest, token.encode()))
            if cursor.rowcount != 1:
                return False
            cursor.execute(sql.END, (digest, int(token)))
        cache = self.store.replay_cache
        if cache is not None:
            put = partial(cache.put, table_of(using), identity, attempt.fingerprint, record, attempt.ttl, since)
            transaction.on_commit(put, using=using, robust=True)
        return True

    def forget(self, using: str, attempt: Attempt, token: str) -> bool:
        """Free the key of a run that has finished no phase. Returns False if it has, or has another owner."""
        sql = self.statements(using)
        digest = attempt.identity.digest
        with connections[using].cursor() as cursor:
            cursor.execute(sql.FORGET, (digest, token.encode(), NOTHING))
            forgotten = bool(cursor.rowcount == 1)
            if forgotten:
                cursor.execute(sql.END, (digest, int(token)))
            return forgotten

    def give_back(self, using: str, attempt: Attempt, token: str, *, doubt: int, phase: str, error: str) -> None:
        """End the lease now, and keep in which *phase* the attempt ended, and by which *error*."""
        told = (doubt, phase[:MAX_STRING], storable(error))
        with connections[using].cursor() as cursor:
            cursor.execute(self.statements(using).GIVE_BACK, (*told, attempt.identity.digest, int(token)))
        if doubt == GIVEN_UP:
            self.let_expire(using, attempt.identity.digest, token, attempt.uncertain_ttl)

    def give_up(self, using: str, attempt: Attempt, run: Run) -> bool:
        """Leave the outcome of an interrupted *run* unsettled. Returns False if that is done, or the run goes on."""
        with connections[using].cursor() as cursor:
            cursor.execute(self.statements(using).GIVE_UP, (attempt.identity.digest, int(run.token)))
            given_up = bool(cursor.rowcount == 1)
        if given_up:
            self.let_expire(using, attempt.identity.digest, run.token, attempt.uncertain_ttl)
        return given_up

    def let_expire(self, using: str, digest: bytes, token: str, uncertain_ttl: float | None) -> None:
        """
        Let the outcome of a run that was given up expire in *uncertain_ttl* seconds; None for never.

        If the process is killed before this, it does not expire.
        """
        if uncertain_ttl is not None:
            sql = self.statements(using)
            with connections[using].cursor() as cursor:
                cursor.execute(sql.MAY_EXPIRE, (sql.seconds(uncertain_ttl), digest, token.encode()))


@dataclass(frozen=True, slots=True)
class RunLeases:
    """Renews leases of *runs* from the thread that keeps leases, on a connection of its own, which it closes again."""

    runs: Runs
    using: str
    schema: str | None

    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        try:
            with in_schema(self.using, self.schema):
                return self.runs.renew(self.using, attempt, claim.token, lease)
        finally:
            connections[self.using].close()


def leases_of(runs: Runs, using: str) -> RunLeases:
    """What renews the leases of this thread's tenant."""
    return RunLeases(runs, using, schema_of(using))


def storable(error: str) -> str:
    """*error* as the column of a run keeps it."""
    return UNSTORABLE.sub("?", error)[:MAX_STRING]


def read_progress(scope: str, digest: bytes, head: bytes) -> Progress:
    """The progress that a claim's *head* holds. Raises as `Progress.decode` and `unseal` do."""
    return Progress.decode(head if head == NOTHING else unseal(scope, digest, PROGRESS, head))


def _read_run(
    record: list[Any], token: int, attempts: int, doubt: int, is_held: bool, attempt: Attempt
) -> Run | Unsettled:
    _status, fingerprint, head, body, _request_id = record
    try:
        progress = read_progress(attempt.identity.scope, attempt.identity.digest, bytes(head))
        if bytes(body) != str(token).encode():
            raise ValueError("it names another owner than its run")
    except (RecursionError, TypeError, ValueError) as error:
        logger.error(UNREADABLE, attempt.identity, error)
        return Unsettled(bytes(fingerprint))
    return Run(
        fingerprint=bytes(fingerprint),
        token=str(token),
        attempts=attempts,
        is_held=is_held,
        is_given_up=doubt == GIVEN_UP,
        progress=progress,
        head=bytes(head),
    )
