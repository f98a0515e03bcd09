"""The table of the DatabaseStore. Its rows are written by the store's statements (`stores/sql/`), not by the ORM."""

from typing import Self

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

from django_idempotency.core.keys import MAX_KEY
from django_idempotency.core.record import CompletionRecord
from django_idempotency.fields import DigestField, KeyField

UNSETTLED = 0  # the status of a claim: an HTTP status is never 0


class DatabaseNow(models.Func):
    """The database's own clock, by which expiry is written and compared."""

    output_field = models.DateTimeField()
    template = "CURRENT_TIMESTAMP"

    def as_mysql(self, compiler: object, connection: BaseDatabaseWrapper, **extra: object) -> tuple[str, tuple[()]]:
        return "UTC_TIMESTAMP(6)", ()

    def as_sqlite(self, compiler: object, connection: BaseDatabaseWrapper, **extra: object) -> tuple[str, tuple[()]]:
        return "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')", ()


class RecordQuerySet(models.QuerySet["IdempotencyRecord"]):
    def live(self) -> Self:
        """Records that still answer, by the database's clock."""
        return self.filter(expires_at__gt=DatabaseNow())

    def expired(self) -> Self:
        """Records whose keys are new again."""
        return self.filter(expires_at__lte=DatabaseNow())

    def purge(self) -> int:
        """
        Delete the expired records of this queryset in one statement, and return how many there were.

        The statement itself asks whether a record has expired, so that one which is claimed anew at the same moment
        stays; `expired().delete()` may read first and delete by primary key.
        """
        return self.expired()._raw_delete(using=self.db)

    def unsettled(self) -> Self:
        """Claims that were committed without an outcome: their handler ended the transaction by itself."""
        return self.filter(status=UNSETTLED)

    def for_key(self, key: str) -> Self:
        """Every record of this exact key, by its index."""
        return self.filter(key=key)


class IdempotencyRecord(models.Model):
    """The stored outcome of one execution; if its status is 0, the claim of an execution whose outcome is unknown."""

    digest = DigestField(_("identity"), primary_key=True, max_length=32)
    scope = models.CharField(_("scope"), max_length=255)
    operation = models.CharField(_("operation"), max_length=255)
    key = KeyField(_("idempotency key"), max_length=MAX_KEY)
    fingerprint = DigestField(_("fingerprint"), max_length=32)
    request = models.CharField(_("request"), max_length=255, default="", blank=True)  # method, host and route
    request_id = models.CharField(_("request id"), max_length=255, default="", blank=True)
    status = models.PositiveSmallIntegerField(_("status"), default=UNSETTLED)
    head = models.BinaryField(_("reason and headers"), default=b"")
    body = models.BinaryField(_("body"), default=b"")
    executed_at = models.DateTimeField(_("executed at"))
    expires_at = models.DateTimeField(_("expires at"))

    objects = RecordQuerySet.as_manager()

    class Meta:
        db_table = "django_idempotency_record"
        # Not db_index, which on PostgreSQL makes a second index of a text, for LIKE: every claim would pay for it.
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
        """The completion record in this row, or None where the outcome is unknown."""
        if self.status == UNSETTLED:
            return None
        return CompletionRecord.from_stored(self.status, self.head, self.body, self.request_id)
