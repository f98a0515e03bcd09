"""
The phases of one run: which are recorded, which runs now, and what a handler may not do between them.

`Phases` carries out `request.idempotency.phase`. A phase is finished only when its transaction is committed. What was
refused is refused again at the end of the handler, which may have swallowed the exception.
"""

import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

from django.db import Error, connections

from django_idempotency.core.keys import MAX_STRING, UNSTORABLE, Attempt, Identity
from django_idempotency.core.probe import NOT_DONE, UNSURE
from django_idempotency.core.progress import Progress
from django_idempotency.engine.handle import OperationHandle, Probe
from django_idempotency.engine.transactions import atomic_phase, is_inside_a_transaction, repeated_phase
from django_idempotency.engine.watch import is_harmless
from django_idempotency.exceptions import IdempotencyError, PhaseError, Refusal, TransactionBroken

logger = logging.getLogger("django_idempotency")

# Statements that are no plain reads, and write nothing that outlasts the connection or needs a transaction.
_WRITES_NOTHING = re.compile(
    r"\s*(?:BEGIN|START\s+TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET|SHOW|EXPLAIN|PRAGMA|DESCRIBE|DECLARE|FETCH"
    r"|CLOSE|VALUES|TABLE|\(?\s*SELECT\b(?!.*\bINTO\b)|WITH\b(?!.*\b(?:INSERT|UPDATE|DELETE|MERGE)\b))\b",
    re.IGNORECASE | re.DOTALL,
)
IN_ERROR = 3  # libpq: PQTRANS_INERROR
NO_PROGRESS = Progress()
SHOWN = 60  # characters of a statement in a message


class Recorder(Protocol):
    """Keeps the recovery points of a run."""

    def enter_phase(self, *, holds: bool) -> bool: ...

    def advance(self, progress: Progress) -> bool: ...

    def may_repeat(self, error: Error, *, is_allowed: bool = True) -> bool: ...

    def owns(self) -> bool: ...

    def lost(self) -> Refusal: ...

    def unsure(self, name: str, reason: str) -> Refusal: ...

    def says_nothing_was_done(self, error: Exception) -> bool: ...


class Phases:
    """
    The phases of a run on the database *using*. *recorded* is the progress of earlier attempts; *resumed*: there was
    one. Without a *recorder* nothing is recorded, because the request has no key.
    """

    def __init__(
        self,
        using: str,
        derive_key: Callable[[str], str],
        recorder: Recorder | None,
        recorded: Progress = NO_PROGRESS,
        *,
        resumed: bool = False,
    ) -> None:
        self.using = using
        self.derive_key = derive_key
        self.recorder = recorder
        self.progress = recorded
        self.resumed = resumed
        self.reached: list[str] = []  # by the handler of this attempt
        self.current = ""  # the phase that runs
        self.raised = ""  # the phase that raised
        self.may_have_done = False  # Did a phase that reaches another system end in an error?
        self.verdict: Refusal | None = None  # which answers the request, whatever the handler does
        self.error: IdempotencyError | None = None  # the first of ours that the handler got
        self.was_cancelled = False  # Has the last transaction that failed lost to a rival?
        self.is_over = False

    @property
    def place(self) -> str:
        """The phase in which or after which the attempt is."""
        return self.current or self.raised or self.progress.last

    def run(self, name: str, fn: Callable[..., Any], probe: Probe | None, was: str | None) -> Any:
        """See `OperationHandle.phase`."""
        self._check(name, was, probe)
        position = len(self.reached)
        self.reached.append(name)
        if position < len(self.progress.phases):
            recorded, result = self.progress.phases[position]
            if recorded not in (name, was):
                raise self._error(_other(name, recorded))
            return json.loads(json.dumps(result))  # the handler may change it
        key = self.derive_key(was or name)
        call = with_key(fn, key)
        is_foreign = call is not fn or probe is not None
        # Not only before the first phase that is not finished: a deploy may have put that one there since.
        if probe is not None and self.recorder is not None and self.resumed:
            found = self._ask(name, probe, key, self.recorder)
            if found is not NOT_DONE:
                call, is_foreign = (lambda: found), False
        # While a process may still reach a system that would do it twice, nobody may find that it was not done.
        return self._execute(name, call, is_foreign, holds=probe is not None)

    def check_end(self) -> None:
        """Raise `PhaseError` if the handler has answered without a phase that is recorded."""
        if self.error is not None:
            raise self.error
        missing = self.progress.phases[len(self.reached) :]
        if missing:
            raise self._error(
                f"Phase {missing[0][0]!r} is recorded for this key, and the handler answered without it. It was removed"
                " or is reached under another condition: let the code reach it as before, or settle this outcome."
            )

    def _check(self, name: str, was: str | None, probe: Probe | None) -> None:
        if self.error is not None:
            raise self.error
        if self.verdict is not None:
            raise self.verdict
        for each in (name, was):
            if each is not None and (
                not isinstance(each, str) or not 0 < len(each) <= MAX_STRING or UNSTORABLE.search(each)
            ):
                raise self._error(f"The name of a phase is a string of 1 to {MAX_STRING} characters, not {each!r}.")
        if not (probe is None or probe is UNSURE or callable(probe)):
            raise self._error(f"The probe of phase {name!r} is a callable or UNSURE, not {probe!r}.")
        if self.is_over:
            raise self._error(f"Phase {name!r} begins after its handler has ended.")
        if self.current:
            raise self._error(f"Phase {name!r} is inside of phase {self.current!r}: let one follow the other.")
        if name in self.reached:
            raise self._error(f"Phase {name!r} is there twice: give each phase of a handler a name of its own.")
        if self.raised:
            raise self._error(
                f"Phase {name!r} follows phase {self.raised!r}, which raised: a retry could not tell which way the"
                f" handler went. Let the exception propagate, or let {self.raised!r} return what it found out."
            )
        if is_inside_a_transaction(self.using):
            raise self._error(
                f"Phase {name!r} begins inside a transaction on database {self.using!r}, so it could not commit: take"
                " the atomic block away, or put it into the phase."
            )

    def _error(self, message: str) -> PhaseError:
        self.error = PhaseError(message)
        return self.error

    def _ask(self, name: str, probe: Probe, key: str, recorder: Recorder) -> Any:
        """Ask what became of a phase that may have begun: its result, or `NOT_DONE`."""
        try:
            found = probe(key) if callable(probe) else UNSURE
        except Exception as error:  # the project's probe; the outcome stays unknown
            logger.exception("The probe of phase %r raised", name)
            reason = f"its probe raised {type(error).__name__}"
        else:
            if found is not UNSURE and found is not None:
                return found
            reason = "its system cannot be asked" if probe is UNSURE else "its probe is unsure"
            if found is None:
                reason = "its probe returned None, which is neither a result nor NOT_DONE nor UNSURE"
        self.raised = name
        self.verdict = recorder.unsure(name, reason)
        raise self.verdict

    def _execute(self, name: str, call: Callable[[], Any], is_foreign: bool, *, holds: bool) -> Any:
        self.current = name
        try:
            work = partial(self._in_transaction, name, call, holds)
            self.progress, result = repeated_phase(self.using, work, partial(self._may_repeat, is_foreign, holds))
        except BaseException as error:
            self.raised = name
            if is_foreign and not (
                isinstance(error, Exception)
                and self.recorder is not None
                and self.recorder.says_nothing_was_done(error)
            ):
                self.may_have_done = True
            if isinstance(error, Error) and self.recorder is not None and self._is_lost(self.recorder):
                raise self._lost(self.recorder) from error
            if isinstance(error, RuntimeError) and "durable atomic block" in str(error):
                error.add_note(f"Phase {name!r} already runs in a transaction: leave durable=True out inside it.")
            if isinstance(error, Error) and "savepoint" in str(error).lower():
                error.add_note(
                    f"Phase {name!r} has ended its transaction by itself (DDL, a raw COMMIT, a deadlock that it"
                    " swallowed): what it wrote may be committed without its recovery point."
                )
            raise
        finally:
            self.current = ""
        return result

    def _may_repeat(self, is_foreign: bool, holds: bool, error: Error) -> bool:
        """May a phase run again that lost to a rival? One with a probe is left to the client's retry, which asks."""
        recorder = self.recorder
        if recorder is None or self._is_lost(recorder) or not recorder.may_repeat(error, is_allowed=not holds):
            return False
        self.may_have_done = self.may_have_done or is_foreign
        return True

    def _in_transaction(self, name: str, call: Callable[[], Any], holds: bool) -> tuple[Progress, Any]:
        recorder = self.recorder
        if recorder is not None and not recorder.enter_phase(holds=holds):
            raise self._lost(recorder)
        checked = partial(self._checked, name, call)
        # A savepoint is gone if the phase has ended its transaction, by DDL or by a deadlock that it swallowed.
        # PostgreSQL refuses every statement after an error by itself.
        is_postgresql = connections[self.using].vendor == "postgresql"
        value = checked() if is_postgresql else atomic_phase(self.using, checked)
        progress = self.progress.with_phase(name, value)
        try:
            progress.encode()
        except ValueError as error:
            raise self._error(
                f"The result of phase {name!r} is what a retry gets, and it was rolled back: return JSON ({error})."
            ) from error
        if recorder is not None and not recorder.advance(progress):
            raise self._lost(recorder)
        return progress, json.loads(json.dumps(value))

    def _checked(self, name: str, call: Callable[[], Any]) -> Any:
        value = call()
        connection: Any = connections[self.using]  # rollback_exc is not in the stubs
        is_aborted = (
            connection.vendor == "postgresql"
            and connection.connection is not None
            and connection.connection.info.transaction_status == IN_ERROR
        )
        if connection.needs_rollback or is_aborted:
            self.error = TransactionBroken(
                f"Phase {name!r} swallowed a database error, or rolled its transaction back, and continued: it was"
                " rolled back. Let the error propagate."
            )
            raise self.error from connection.rollback_exc
        return value

    def _is_lost(self, recorder: Recorder) -> bool:
        """After a database error: does the run belong to another? REPEATABLE READ fails where a phase would notice."""
        try:
            return not recorder.owns()
        except Error:
            return False

    def _lost(self, recorder: Recorder) -> Refusal:
        self.verdict = recorder.lost()
        return self.verdict

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Refuse writes outside of phases while the handler runs, and phases after it."""
        wrappers = connections[self.using].execute_wrappers
        wrappers.append(self._watch)
        try:
            yield
        finally:
            self.is_over = True
            if self._watch in wrappers:
                wrappers.remove(self._watch)

    def _watch(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.current and not is_harmless(sql) and not (isinstance(sql, str) and _WRITES_NOTHING.match(sql)):
            place = f"after phase {self.place!r}" if self.place else "before the first phase"
            raise self._error(
                f"The handler writes to database {self.using!r} outside of a phase, {place}: a retry could repeat it."
                f" Put this into a phase: {str(sql)[:SHOWN]!r}"
            )
        return execute(sql, params, many, context)


def _other(name: str, recorded: str) -> str:
    return (
        f"Phase {name!r} comes where phase {recorded!r} is recorded for this key: one was renamed, removed or moved."
        f" Let the code reach {recorded!r} there, or rename it with phase({name!r}, ..., was={recorded!r})."
    )


def with_key(fn: Callable[..., Any], key: str) -> Callable[[], Any]:
    """*fn* itself if it has no parameter `key`."""
    try:
        parameter = inspect.signature(fn).parameters.get("key")
    except (TypeError, ValueError):  # a builtin
        return fn
    if parameter is None:
        return fn
    return partial(fn, key) if parameter.kind is parameter.POSITIONAL_ONLY else partial(fn, key=key)


class PhasedHandle(OperationHandle):
    """The handle of an operation in phased mode."""

    __slots__ = ("_phases",)

    def __init__(self, attempt: Attempt, phases: Phases) -> None:
        super().__init__(attempt)
        self._phases = phases

    def phase(self, name: str, fn: Callable[..., Any], *, probe: Probe | None = None, was: str | None = None) -> Any:
        return self._phases.run(name, fn, probe, was)


class KeylessHandle(OperationHandle):
    """
    The handle of a request without a key in phased mode: it has phases, which are not recorded, and is false in a
    condition. Every other attribute raises `PhaseError`.
    """

    __slots__ = ("_phases",)

    def __init__(self, using: str) -> None:
        self._phases = Phases(using, lambda name: str(uuid4()), None)

    def __bool__(self) -> bool:
        return False

    def phase(self, name: str, fn: Callable[..., Any], *, probe: Probe | None = None, was: str | None = None) -> Any:
        return self._phases.run(name, fn, probe, was)

    def derive_key(self, name: str) -> str:
        return self._phases.derive_key(name)

    @property
    def identity(self) -> Identity:
        raise PhaseError("This request carries no idempotency key, and so has no identity. Test `request.idempotency`.")

    @property
    def key(self) -> str:
        return self.identity.key

    @property
    def scope(self) -> str:
        return self.identity.scope

    @property
    def phases(self) -> Phases:
        return self._phases
