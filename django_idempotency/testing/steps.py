"""The steps of `assert_idempotent`: what each of them sends, and what that proves or shows to be wrong."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from django.http.response import HttpResponseBase
from django.test import Client

from django_idempotency.core.keys import MAX_KEY
from django_idempotency.testing.calls import Call, Reply, Sender
from django_idempotency.testing.findings import (
    NO_EFFECT,
    OUTSIDE,
    PROTECT,
    USED_KEY,
    Finding,
    NotProved,
    find_reply_differences,
)
from django_idempotency.testing.observe.interruptions import Interruption, interruption
from django_idempotency.testing.observe.requests import Observation, Observer

DERIVED: Any = object()  # another payload, which the kit makes of the call's own
PERMANENT = (301, 308)
TURNED_AWAY = (401, 403)
TOO_LONG = "k" * (MAX_KEY + 1)


@dataclass(frozen=True, slots=True)
class Proof:
    """What `assert_idempotent` has proved, and what it could not try."""

    subject: str
    proved: tuple[str, ...]
    not_tried: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self.subject, *(f"  proved: {each}" for each in self.proved)]
        return "\n".join([*lines, *(f"  not tried: {each}" for each in self.not_tried)])


@dataclass(kw_only=True)
class Steps:
    """Tries one call. Each step adds what it has proved or found."""

    call: Sender
    observer: Observer
    key: str
    effect: bool
    ignore: tuple[str, ...]
    findings: list[Finding] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)
    interruption: Interruption = field(default_factory=Interruption)
    attempt: Observation | None = None  # the request that failed at its end
    reused: Reply | None = None  # the reply to the same key with another payload
    known: set[str] = field(default_factory=set)  # places whose changes were reported

    def find(self, what: str, details: Iterable[str] = (), remedy: str = "") -> None:
        self.findings.append(Finding(what, tuple(details), remedy))

    def prove(self, what: str, before: int) -> None:
        """Add *what* as proved, if there still are only *before* findings."""
        if len(self.findings) == before:
            self.proved.append(what)

    def send(self, call: Sender, key: str | None) -> Observation:
        return self.observer.send(call, key)

    @property
    def subject(self) -> str:
        reply = getattr(self, "first", None) and self.first.reply
        if isinstance(self.call, Call) or not reply:
            name = str(self.call) if isinstance(self.call, Call) else getattr(self.call, "__qualname__", str(self.call))
        else:
            name = reply.method or "the call"
        return f"{name} ({reply.view})" if reply and reply.view else name

    def verdict(self) -> Proof:
        if self.findings:
            raise NotProved(f"{self.subject} is not idempotent", self.findings)
        return Proof(self.subject, tuple(self.proved), tuple(self.not_tried))

    # --- the steps ---

    def first_run(self) -> None:
        """Make the request fail at its end, and send it again: that execution is then repeated."""
        with interruption() as self.interruption:
            attempt = self.send(self.call, self.key)
        if not self.interruption.happened:
            self.first = attempt
            why = "no store was asked"
            if self.interruption.claims:
                why = "its store is outside the database, and rolls nothing back"
            self.not_tried.append(f"a retry after an exception: {why}")
        else:
            self.attempt = attempt
            rolled_back = "" if self.interruption.in_phases else " and was rolled back"
            if attempt.reply.status < 400:
                self.find(
                    f"The request failed at its end{rolled_back}, but its client got {attempt.reply.status}.",
                    [str(attempt.reply)],
                    "something around the view swallows exceptions. Let them propagate, so that the client knows that"
                    " nothing was done.",
                )
            self.first = self.send(self.call, self.key)
            if self.interruption.in_phases:
                self._judge_resumed(attempt)
        self._judge_first()

    def _judge_resumed(self, attempt: Observation) -> None:
        """Judge the retry of a request in phases that failed at its end: everything was done before."""
        # What only one of the two has changed was only cached.
        again = tuple(key for key in self.first.seen.cached if key in attempt.seen.cached)
        seen = replace(self.first.seen, cached=again)
        if seen:
            self.find(
                "The request failed when its phases were finished, and its retry changed something all the same.",
                seen.lines(),
                "it is done in no phase, so each attempt does it again: in a middleware or a decorator, or between two"
                " phases. Put it into a phase, whose result a retry gets.",
            )
        else:
            self.proved.append("a retry after an exception goes on after the last phase, and repeats nothing")
        self.first = replace(self.first, seen=attempt.seen)

    def _judge_attempts_effects(self, of_duplicate: set[str]) -> None:
        """Judge what was left of the request that failed. A duplicate's own effects are judged with the duplicate."""
        attempt = self.attempt
        if attempt is None or self.interruption.in_phases:
            return
        # What the retry did not change again was only cached.
        again = tuple(key for key in attempt.seen.cached if key in self.first.seen.cached)
        attempt = replace(attempt, seen=replace(attempt.seen, cached=again))
        if attempt.seen.places() - of_duplicate:
            self.find(
                "The request failed at its end and was rolled back, but something of it was left, which a retry does"
                " once more.",
                attempt.seen.lines(),
                "no transaction of the view covers it: another database, a connection or thread of its own, an e-mail,"
                " a cache. Write it in the transaction of the record (the option `using` names its database), and send"
                " what must go out from there, or from an on_commit hook if it may be lost. If it does not matter, name"
                " its table in `ignore`, or the key of its cache as `cache:<key>`.",
            )
        elif not attempt.seen:
            self.proved.append("a retry after an exception runs, and nothing of the attempt was left")

    def _judge_first(self) -> None:
        reply, seen = self.first.reply, self.interruption
        if reply.replayed:
            self._give_up(*USED_KEY)
        left_behind = reply.code in ("request-in-progress", "outcome-unknown")
        if left_behind or reply.status >= 500 or (reply.status >= 400 and not seen.kept):
            remedy = "give a call that the view accepts: only an answer that is stored can be replayed."
            if left_behind:
                remedy = "let the handler leave the transaction alone: it has ended it, and its claim was left behind."
            elif reply.status >= 500:
                remedy = "let the handler succeed, and let its errors propagate."
            self._give_up(f"The request itself was answered {reply.status}.", remedy, [str(reply)])
        if seen.claims and not seen.kept:
            self._give_up(
                f"The request was answered {reply.status}, but its answer is not stored and its work was rolled back.",
                "let `should_store` accept it, and do not call set_rollback(True) for a success.",
                [str(reply)],
            )
        if self.effect and not self.first.seen:
            self._give_up(*NO_EFFECT, [str(reply)])

    def _give_up(self, what: str, remedy: str, details: Iterable[str] = ()) -> None:
        self._judge_attempts_effects(set())
        self.find(what, details, remedy)
        self.verdict()

    def duplicates(self) -> None:
        """Send the same request again."""
        before = len(self.findings)
        again = self.send(self.call, self.key)
        self._judge_attempts_effects(again.seen.places())
        replayed = again.reply.replayed or (again.reply.is_result and not again.seen)
        if replayed:
            self.find_changes(again, "The duplicate was replayed, but it changed something all the same.", OUTSIDE)
        elif again.seen:
            self.find(
                f"The duplicate ran: the same request with the same key took effect twice"
                f"{f' in {again.reply.view}' if again.reply.view else ''}.",
                again.seen.lines(),
                PROTECT,
            )
        else:
            self.find("The duplicate was not answered by a replay.", [str(again.reply)], PROTECT)
        differences = [*find_reply_differences(self.first.reply, again.reply, ignore=self.ignore)]
        if differences and (replayed or not again.seen):
            self.find(
                "The duplicate got another answer than the first request.",
                differences,
                "the difference is made outside the protected handler (by the option `replay`, or by a counter, a clock"
                " or a random value in a middleware or a decorator). Make it in the handler, or name the header in"
                " `ignore`.",
            )
        self.prove("a duplicate gets the same answer and changes nothing", before)
        if not replayed:
            self.verdict()  # further steps would find the same mistake

    def another_payload(self, other: Any) -> None:
        """Send the same key with another payload."""
        before = len(self.findings)
        if other is DERIVED and isinstance(self.call, Call) and not callable(self.call.data):
            changed: Sender = self.call.with_other_payload()
        elif other is None or other is DERIVED:
            self.not_tried.append("another payload: give one as `other_payload`")
            return
        else:
            changed = self._variant("other_payload", other, "data")
        run = self.send(changed, self.key)
        self.reused = run.reply
        if run.reply.replayed:
            self.find(
                "The same key with another payload got the first request's answer.",
                [str(run.reply)],
                "the option `fingerprint` leaves out what differs. If it should, give an `other_payload` that means"
                " something else.",
            )
        elif run.reply.status != 422 or run.claimed:
            ran = " by the handler, which ran" if run.claimed else ""
            self.find(
                f"The same key with another payload was answered {run.reply.status}{ran}, and not refused with 422.",
                [str(run.reply)],
            )
        self.find_changes(run, "The same key with another payload changed something.", OUTSIDE)
        self.prove("the same key with another payload is refused", before)

    def another_user(self, other: Any) -> None:
        """Send the same key as another user; and, if the call has a user, without one."""
        if isinstance(self.call, Call) and self.call.user is not None:
            self._judge_stranger("without credentials", self.call.changed(user=None))
        if other is None:
            self.not_tried.append("another user: give one as `other_user`")
            return
        field = "client" if isinstance(other, Client) else "user"
        self._judge_stranger("sent by another user", self._variant("other_user", other, field))

    def _judge_stranger(self, who: str, call: Sender) -> None:
        run = self.send(call, self.key)
        reply = run.reply
        # A function's result has no mark of a replay.
        same = reply.is_result and reply.body == self.first.reply.body and not run.seen and self.effect
        # Of the view itself, or a redirect to a login; a permanent redirect only corrects the URL.
        is_answer = reply.status < 400 and reply.status not in PERMANENT
        if reply.replayed or same:
            self.find(
                f"The same key {who} got the first user's answer.",
                [str(reply)],
                "tell callers apart by the option `scope`, and let permissions decide before the handler.",
            )
        elif reply.status == 422 and (
            reply.code == "key-reused" or (self.reused is not None and reply.body == self.reused.body)
        ):
            self.find(
                f"The same key {who} met the first user's record: 422 reveals that the key is in use.",
                [str(reply)],
                "tell callers apart by the option `scope`.",
            )
        elif reply.status in TURNED_AWAY or (run.claimed and reply.status < 500) or is_answer:
            self.proved.append(f"the same key {who} does not get the first user's answer")
        else:
            self.not_tried.append(f"the same key {who}: it was answered {reply}, which proves nothing")

    def bad_keys(self, required: bool | None) -> None:
        """Send a malformed key, and no key."""
        before = len(self.findings)
        malformed = self.send(self.call, TOO_LONG)
        if malformed.reply.status != 400 or malformed.claimed:
            ran = " by the handler, which ran" if malformed.claimed else ""
            self.find(
                f"A malformed key (of {len(TOO_LONG)} characters) was answered {malformed.reply.status}{ran}, and not"
                " refused with 400.",
                [str(malformed.reply)],
            )
        self.find_changes(malformed, "A request with a malformed key changed something.", OUTSIDE)
        self.prove("a malformed key is refused", before)
        before = len(self.findings)
        wanted = self.first.reply.required if required is None else required
        if required is None and not wanted:
            self.not_tried.append("a request without a key, which the view lets run")
            return
        bare = self.send(self.call, None)
        if wanted:
            if bare.reply.status != 400:
                self.find(
                    f"A request without a key was answered {bare.reply.status}, and not 400.",
                    [str(bare.reply)],
                    "set the option `required`.",
                )
            elif not self.first.reply.required and bare.reply.code != "key-missing":
                self.not_tried.append(f"a request without a key: it was answered {bare.reply}, which proves nothing")
                return
            self.find_changes(bare, "A request without a key changed something.", OUTSIDE)
            self.prove("a request without a key is refused", before)
        else:
            if bare.reply.code == "key-missing" or bare.reply.status >= 500:
                self.find(f"A request without a key was answered {bare.reply.status}.", [str(bare.reply)])
            self.prove("a request without a key runs", before)

    def find_changes(self, run: Observation, what: str, remedy: str) -> None:
        """Add a finding if *run* has changed something at a place that was not reported yet."""
        if run.seen.places() - self.known:
            self.known |= run.seen.places()
            self.find(what, run.seen.lines(), remedy)

    # --- other calls ---

    def _variant(self, option: str, value: Any, field: str) -> Sender:
        """The call with *value* for *field*; or *value*, if it is a call itself."""
        if field == "data" and isinstance(self.call, Call) and callable(self.call.data) and callable(value):
            return _made(self.call, value)
        if isinstance(value, Call) or (callable(value) and not isinstance(value, Client)):
            changed: Sender = value
            return changed
        if not isinstance(self.call, Call):
            raise TypeError(f"`{option}` must be a callable that takes a key, like the call itself, not {value!r}.")
        return self.call.changed(**{field: value})


def _made(call: Call, value: Callable[[str | None], Any]) -> Sender:
    """The *call* with the data that *value* makes of a key; or what *value* returns, if that is a response."""

    def changed(key: str | None) -> Any:
        made = value(key)
        return made if isinstance(made, HttpResponseBase) else call.changed(data=made)(key)

    return changed
