"""
The tables: the records of the DatabaseStore, which the statements in `stores/database/` write, not the ORM; and those
of the dashboard and of observe mode, which `operations/` writes.
"""

from datetime import UTC, datetime
from typing import Self, TypeVar

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

from django_idempotency.core.keys import MAX_KEY, MAX_STRING
from django_idempotency.core.record import TOMBSTONE, CompletionRecord
from django_idempotency.encryption import open_answer
from django_idempotency.fields import DigestField, ExactField, KeyField, Utf8Field

Row = TypeVar("Row", bound=models.Model)

UNSETTLED = 0  # the status of a claim, because an HTTP status is never 0
# The doubt about a run of phased mode: none; its probe could not tell, and the next attempt asks again; the resumer may
# not send its request again, but its client may; or it was attempted too often or for too long, and only an operator
# decides.
NO_DOUBT, UNSURE, REFUSED, GIVEN_UP = 0, 1, 2, 3
RUN_COLUMNS = ("token", "ends_at", "attempts", "doubt", "phase", "error", "resume_until", "sent")  # of `PhasedRun`


class DatabaseNow(models.Func):
    """The database's own clock, by which expiry is written and compared."""

    output_field = models.DateTimeField()
    template = "CURRENT_TIMESTAMP"

    def as_mysql(self, compiler: object, connection: BaseDatabaseWrapper, **extra: object) -> tuple[str, tuple[()]]:
        return "UTC_TIMESTAMP(6)", ()

    def as_sqlite(self, compiler: object, connection: BaseDatabaseWrapper, **extra: object) -> tuple[str, tuple[()]]:
        return "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')", ()


def _answer_has_ended() -> models.Exists:
    return models.Exists(
        AnswerEnd.objects.filter(
            digest=models.OuterRef("digest"), executed_at=models.OuterRef("executed_at"), ends_at__lte=DatabaseNow()
        )
    )


def _runs(**conditions: object) -> "models.QuerySet[PhasedRun]":
    """The run of each record that has one, and meets the *conditions*."""
    return PhasedRun.objects.filter(
        digest=models.OuterRef("digest"), executed_at=models.OuterRef("executed_at"), **conditions
    )


def _is_running() -> models.Exists:
    return models.Exists(_runs(ends_at__gt=DatabaseNow()))


def _is_interrupted() -> models.Exists:
    return models.Exists(_runs(ends_at__lte=DatabaseNow(), doubt=NO_DOUBT))


class RecordQuerySet(models.QuerySet["IdempotencyRecord"]):
    def live(self) -> Self:
        """Records that have not expired by the database's clock, and unknown outcomes."""
        of_records = models.Q(status__gt=UNSETTLED, expires_at__gt=DatabaseNow())
        never, not_yet = models.Q(uncertain_until=None), models.Q(uncertain_until__gt=DatabaseNow())
        return self.filter(of_records | (models.Q(status=UNSETTLED) & (never | not_yet)))

    def expired(self) -> Self:
        """Records whose keys are new again, which a purge deletes. Unknown outcomes are not, unless they may expire."""
        by_record, by_outcome = models.Q(status__gt=UNSETTLED), models.Q(uncertain_until__lte=DatabaseNow())
        return self.filter(by_record | by_outcome, expires_at__lte=DatabaseNow())

    def purge(self) -> int:
        """
        Delete the expired records of this queryset in one statement. Returns their number.

        A record that is claimed again at the same moment stays, because the statement itself checks expiry;
        `expired().delete()` may read first and then delete by primary key.
        """
        return self.expired()._raw_delete(using=self.db)

    def with_state(self) -> Self:
        """
        Annotate the database's time as `now`, as `ended` whether the answer has ended before the record, and whether it
        is the claim of a run whose owner works (`is_in_flight`), or that a retry goes on with (`is_interrupted`).
        """
        return self.annotate(
            now=DatabaseNow(), ended=_answer_has_ended(), is_in_flight=_is_running(), is_interrupted=_is_interrupted()
        )

    def with_run(self) -> Self:
        """Annotate as `run_token` and so on the columns of a claim's run, NULL without one; and its head and body."""
        columns = {f"run_{name}": models.Subquery(_runs().values(name)) for name in RUN_COLUMNS}
        of_claim = {
            f"claim_{name}": models.Case(models.When(status=UNSETTLED, then=name), default=models.Value(b""))
            for name in ("head", "body")
        }
        return self.annotate(**columns, **of_claim)

    def ended(self) -> Self:
        """Records whose answers have ended, but whose keys stay taken."""
        return self.filter(_answer_has_ended() | models.Q(status=TOMBSTONE))

    def unsettled(self) -> Self:
        """Claims without an outcome, committed by their handlers; and runs of phased mode whose outcome is in doubt."""
        return self.filter(~models.Exists(_runs(doubt=NO_DOUBT)), status=UNSETTLED)

    def running(self) -> Self:
        """Claims of phased mode whose owners' leases last."""
        return self.filter(_is_running(), status=UNSETTLED)

    def interrupted(self) -> Self:
        """Claims of phased mode that nobody works on now, and that a retry or the resumer goes on with."""
        return self.filter(_is_interrupted(), status=UNSETTLED)

    def for_key(self, key: str) -> Self:
        """Every record of this exact key."""
        return self.filter(key=key)


class IdempotencyRecord(models.Model):
    """
    The stored outcome of one execution. With status 0 it is the claim of an execution whose outcome is unsettled, with
    status 1 a tombstone: its answer has expired, and its key stays taken until `expires_at`.
    """

    digest = DigestField(_("identity"), primary_key=True, max_length=32)
    scope = Utf8Field(_("scope"), max_length=MAX_STRING)
    operation = Utf8Field(_("operation"), max_length=MAX_STRING)
    key = KeyField(_("idempotency key"), max_length=MAX_KEY)
    fingerprint = DigestField(_("fingerprint"), max_length=32)
    request = Utf8Field(_("request"), max_length=MAX_STRING, default="", blank=True)  # method, host and route
    request_id = Utf8Field(_("request id"), max_length=MAX_STRING, default="", blank=True)
    status = models.PositiveSmallIntegerField(_("status"), default=UNSETTLED)
    head = models.BinaryField(_("reason and headers"), default=b"")
    body = models.BinaryField(_("body"), default=b"")
    executed_at = models.DateTimeField(_("executed at"))
    expires_at = models.DateTimeField(_("expires at"))
    # When an unknown outcome expires, in the place of `expires_at`; NULL for never.
    uncertain_until = models.DateTimeField(_("unknown until"), null=True, blank=True)

    objects = RecordQuerySet.as_manager()

    class Meta:
        db_table = "django_idempotency_record"
        # Not db_index, which on PostgreSQL makes a second index of a string, for LIKE, that every claim would pay for.
        indexes = (
            models.Index(fields=["key"], name="idempotency_record_key"),
            models.Index(fields=["expires_at"], name="idempotency_record_expires"),
        )
        default_permissions = ("view",)  # records are written by the store alone
        permissions = (
            ("view_stored_response", "Can view stored responses"),
            ("free_key", "Can free an idempotency key"),
            ("settle_outcome", "Can settle an unknown outcome"),
        )
        verbose_name = _("idempotency record")
        verbose_name_plural = _("idempotency records")

    def __str__(self) -> str:
        return bytes(self.digest).hex()

    @property
    def record(self) -> CompletionRecord | None:
        """
        The completion record in this row, or None for an unsettled outcome and for a tombstone. Raises `ValueError` if
        it cannot be read.
        """
        if self.status in (UNSETTLED, TOMBSTONE):
            return None
        answer = open_answer(self.scope, bytes(self.digest), self.status, self.head, self.body)
        return CompletionRecord.from_stored(self.status, *answer, self.request_id)


class AnswerEnd(models.Model):
    """
    When the answer of a record ends, whose key stays taken after that (option `tombstone_ttl`). The purge then turns
    the record into a tombstone, and deletes this row. It is written with the record, in one transaction.

    *executed_at* is the record's: it tells that execution from a later one of the same identity.
    """

    digest = DigestField(_("identity"), primary_key=True, max_length=32)
    executed_at = models.DateTimeField(_("executed at"))
    ends_at = models.DateTimeField(_("answer ends at"))

    class Meta:
        db_table = "django_idempotency_answer_end"
        indexes = (models.Index(fields=["ends_at"], name="idempotency_answer_ends"),)
        default_permissions = ()
        verbose_name = _("end of an answer")
        verbose_name_plural = _("ends of answers")

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class PhasedRun(models.Model):
    """
    The run of phased mode whose claim is the record of status 0 with this *digest* and *executed_at*: its owner and
    lease, and what operators and the resumer need. The record has the recovery points; this row changes beside it, so
    that a renewal of the lease never meets a phase. Deleted when the run has its answer.
    """

    digest = DigestField(_("identity"), primary_key=True, max_length=32)
    executed_at = models.DateTimeField(_("executed at"))
    token = models.BigIntegerField()  # drawn for each owner
    ends_at = models.DateTimeField(_("lease ends at"))
    attempts = models.PositiveIntegerField(_("attempts"), default=1)
    doubt = models.PositiveSmallIntegerField(_("doubt"), default=NO_DOUBT)
    phase = Utf8Field(_("phase"), max_length=MAX_STRING, default="", blank=True)  # in which the last attempt ended
    error = Utf8Field(_("last error"), max_length=MAX_STRING, default="", blank=True)
    resume_at = models.DateTimeField(_("resume not before"))  # of the resumer alone: a client's retry need not wait
    resume_until = models.DateTimeField(_("resume until"))
    sent = models.BinaryField(_("request as it was sent"), default=b"")  # JSON; empty if it is not stored

    class Meta:
        db_table = "django_idempotency_run"
        default_permissions = ()
        verbose_name = _("run in phases")
        verbose_name_plural = _("runs in phases")

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class ObservedQuerySet(models.QuerySet["ObservedRun"]):
    """Runs of observe mode, by whether they have expired."""

    def live(self) -> Self:
        """Runs that have not expired by the database's clock."""
        return self.filter(expires_at__gt=DatabaseNow())

    def expired(self) -> Self:
        return self.filter(expires_at__lte=DatabaseNow())


class ObservedRun(models.Model):
    """
    The first run of an identity in observe mode that atomic mode would have stored.

    It is in a table of its own, because no request may ever be answered from it, even after the mode is atomic.
    """

    digest = DigestField(_("identity"), primary_key=True, max_length=32)
    token = models.BigIntegerField()  # drawn for each run, by which a run recognises its own row
    fingerprint = DigestField(_("fingerprint"), max_length=32)
    status = models.PositiveSmallIntegerField(_("status"))
    began_at = models.DateTimeField(_("began at"))
    ended_at = models.DateTimeField(_("ended at"))
    expires_at = models.DateTimeField(_("expires at"))

    objects = ObservedQuerySet.as_manager()

    class Meta:
        db_table = "django_idempotency_observed"
        indexes = (models.Index(fields=["expires_at"], name="idempotency_observed_expires"),)
        default_permissions = ()  # rows are written by `operations.observations` alone, and have no page
        verbose_name = _("observed run")
        verbose_name_plural = _("observed runs")

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class HourQuerySet(models.QuerySet[Row]):
    """Rows of some hours, which are numbered as in `HourlyModel`."""

    def since(self, hour: int) -> Self:
        return self.filter(hour__gte=hour)

    def before(self, hour: int) -> Self:
        return self.filter(hour__lt=hour)


class HourlyModel(models.Model):
    """Rows of an *hour*, a whole number since 1970 in UTC, so that no change of the clock makes two hours one."""

    hour: int

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.begins_at:%Y-%m-%d %H:%M} UTC"

    @property
    def begins_at(self) -> datetime:
        """The first instant of the hour."""
        return datetime.fromtimestamp(self.hour * 3600, UTC)


class DecisionCount(HourlyModel):
    """How often one operation was decided in which way within one hour, over all processes."""

    pk = models.CompositePrimaryKey("hour", "operation")
    hour = models.PositiveIntegerField(_("hour"), help_text=_("Hours since 1970-01-01 00:00 UTC."))
    operation = ExactField(_("operation"), max_length=MAX_STRING)
    executions = models.BigIntegerField(_("executions"), default=0)
    replays = models.BigIntegerField(_("replays"), default=0)
    conflicts = models.BigIntegerField(_("conflicts"), default=0)  # 409 request-in-progress
    mismatches = models.BigIntegerField(_("mismatches"), default=0)  # 422 key-reused
    unknown_outcomes = models.BigIntegerField(_("unknown outcomes"), default=0)  # 409 outcome-unknown
    unavailable = models.BigIntegerField(_("store unavailable"), default=0)  # 503 store-unavailable
    other_refusals = models.BigIntegerField(_("other refusals"), default=0)  # of a code without a column of its own
    forgotten = models.BigIntegerField(_("forgotten"), default=0)
    unsettled = models.BigIntegerField(_("unsettled"), default=0)
    # Keys sent to unprotected views. The default is the database's too: the version before names no such column.
    ignored = models.BigIntegerField(_("ignored keys"), default=0, db_default=0)
    # Observe mode: requests that ran, and what atomic mode would have done with some of them.
    observed = models.BigIntegerField(_("observed"), default=0, db_default=0)
    would_replay = models.BigIntegerField(_("would have been replayed"), default=0, db_default=0)
    would_conflict = models.BigIntegerField(_("would have been conflicts"), default=0, db_default=0)
    would_mismatch = models.BigIntegerField(_("would have been mismatches"), default=0, db_default=0)
    would_refuse = models.BigIntegerField(_("would have been refused otherwise"), default=0, db_default=0)
    ran_twice = models.BigIntegerField(_("ran twice"), default=0, db_default=0)

    objects = HourQuerySet.as_manager()

    class Meta:
        db_table = "django_idempotency_count"
        default_permissions = ("view",)  # counts are written by `operations.counts` alone
        verbose_name = _("count of decisions")
        verbose_name_plural = _("counts of decisions")

    def __str__(self) -> str:
        return f"{self.operation}, {super().__str__()}"


class StorageSample(HourlyModel):
    """How many records the database held in an hour, and how large their table was."""

    hour = models.PositiveIntegerField(_("hour"), primary_key=True, help_text=_("Hours since 1970-01-01 00:00 UTC."))
    records = models.BigIntegerField(_("stored records"))  # an estimate, if they are many
    size = models.BigIntegerField(_("size in bytes"), null=True)  # NULL if the database does not know

    objects = HourQuerySet.as_manager()

    class Meta:
        db_table = "django_idempotency_storage"
        default_permissions = ("view",)  # samples are written by `operations.table_size` alone
        verbose_name = _("sample of storage")
        verbose_name_plural = _("samples of storage")
