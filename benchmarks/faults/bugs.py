"""
Mistakes that an idempotency package, or a project, can make, each of which a kind of fault brings to light.

The three of the proof (`tests.proof.bugs`), and more. In a process of the fault suite, `FAULTS` in the environment
names the one that is planted.
"""

import io
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.core.progress import Progress
from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import UNSETTLED, IdempotencyRecord
from django_idempotency.stores.database import DatabaseStore
from django_idempotency.stores.database.phased import Runs
from tests.proof import bugs as proof
from tests.proof.bugs import EarlyCommit, insert

BUG: str = json.loads(os.environ.get("FAULTS", "{}")).get("bug", "")

View = Callable[[HttpRequest], HttpResponse]


# --- of a store ---


class Forgets(DatabaseStore):
    """Claims, and takes its claim away when the work is done: it keeps duplicates apart, but no answer."""

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        IdempotencyRecord.objects.using(using).filter(digest=attempt.identity.digest).delete()


class ShortLease(EarlyCommit):
    """Commits its claim, takes over one that is older than a lease, and never asks whether its own was taken over."""

    LEASE = timedelta(seconds=0.3)

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        rows = IdempotencyRecord.objects.using(using).filter(digest=attempt.identity.digest, status=UNSETTLED)
        rows.filter(executed_at__lt=timezone.now() - self.LEASE).delete()
        found = super().claim(using, attempt)
        return InFlight() if isinstance(found, Unsettled) else found

    def look_up(self, using: str, attempt: Attempt) -> None:
        """Nothing: what is found would be taken for an unknown outcome."""

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        super().complete(using, attempt, claim, record)
        insert(using, attempt, record)  # the claim may have been taken away


class OwnClock(DatabaseStore):
    """Lets records expire by the clock of the process."""

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        rows = IdempotencyRecord.objects.using(using).filter(digest=attempt.identity.digest)
        rows.filter(expires_at__lte=timezone.now()).delete()
        return super().claim(using, attempt)


class SessionLock(DatabaseStore):
    """Claims by a lock of PostgreSQL's session, taken before the transaction: a pooler's next client has it too."""

    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        with connections[using].cursor() as cursor:
            if found := self.dialect(using).look_up(cursor, attempt):
                return found
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [self.number(attempt)])
            return None if cursor.fetchone()[0] else InFlight()

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        return Claimed()

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        insert(using, attempt, record)
        transaction.on_commit(lambda: self.unlock(using, attempt), using=using)

    def unlock(self, using: str, attempt: Attempt) -> None:
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [self.number(attempt)])

    def number(self, attempt: Attempt) -> int:
        return int.from_bytes(attempt.identity.digest[:8], signed=True)


class LateRecoveryPoint(DatabaseStore):
    """In phased mode: a phase's recovery point is written when the phase's transaction is committed."""

    class LateRuns(Runs):
        LATE = 0.05  # seconds, in which a kill may fall

        def advance(self, using: str, attempt: Attempt, token: str, progress: Progress) -> bool:
            write = super().advance

            def late() -> None:
                time.sleep(self.LATE)
                write(using, attempt, token, progress)

            transaction.on_commit(late, using=using)
            return self.owns(using, attempt, token)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.runs = self.LateRuns(self)


STORES: dict[str, Callable[..., DatabaseStore]] = {
    **proof.BUGS,
    "forgets": Forgets,
    "short lease": ShortLease,
    "own clock": OwnClock,
    "session lock": SessionLock,
    "recovery point outside the transaction": LateRecoveryPoint,
}


def plant(name: str) -> None:
    """Give this process's store the bug *name*."""
    from django_idempotency.stores import stores

    stores._made["default"] = STORES[name]("default", {})


# --- of a server ---


def below(application: Any) -> Any:
    """
    *application*, Django's, with a bug in how it is given a body.

    "takes a part for the whole": what has arrived is the body. "takes it for empty": a body without a length is left to
    the handler.
    """
    if BUG == "takes a part for the whole":

        def whole(environ: dict[str, Any], start_response: Any) -> Any:
            body = environ["wsgi.input"].read()
            return application(
                environ | {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}, start_response
            )

        return whole
    if BUG == "takes it for empty":

        def empty(environ: dict[str, Any], start_response: Any) -> Any:
            for name in ("HTTP_TRANSFER_ENCODING", "wsgi.input_terminated"):
                environ.pop(name, None)
            return application(environ, start_response)

        return empty
    return application


# --- of a view ---


def inside(view: View) -> View:
    """*view* with the bug "swallows": the error of a statement is caught, and the handler answers what it had made."""
    if BUG != "swallows":
        return view

    def swallows(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except DatabaseError:
            return made(request)

    return swallows


def around(protected: View, bare: View) -> View:
    """
    *protected*, with a bug outside the protection.

    "answers anyway" (with "swallows" too): the answer that was made goes out, though the transaction failed. "fails
    open": where the store does not answer, the handler runs without it.
    """
    if BUG in ("answers anyway", "swallows"):

        def anyway(request: HttpRequest) -> HttpResponse:
            try:
                answer = protected(request)
            except Exception:
                if hasattr(request, "made"):
                    return made(request)
                raise
            return made(request) if answer.status_code == 503 and hasattr(request, "made") else answer

        return anyway
    if BUG == "fails open":

        def open_(request: HttpRequest) -> HttpResponse:
            answer = protected(request)
            for _ in range(20 if answer.status_code == 503 else 0):
                try:
                    return bare(request)
                except DatabaseError:
                    connections.close_all()
                    time.sleep(0.05)  # another client may give up a connection
            return answer

        return open_
    return protected


def made(request: Any) -> JsonResponse:
    return JsonResponse(request.made, status=201)
