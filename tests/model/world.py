"""
The protocol of the DatabaseStore: the work and the record in one transaction.

Two clients send one key, and repeat it until they have an answer. A purge, an operator and the clock act beside them.
A process is a place in its protocol, which is a table from the name of each place to its step. A step is what the
database does atomically; between two steps any other process may take one. It yields each possible outcome, in words
and as the world after it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.model.search import KILLED, Model, Move

EARLIER = -1  # the answer of an execution whose record has expired or was freed


class Row(NamedTuple):
    """The key's row. *by* is the number of the execution that wrote it, which stands for its answer as well."""

    by: int
    is_record: bool  # else a claim
    is_live: bool = True


class Process(NamedTuple):
    at: str
    seen: Row | None = None  # by an earlier step
    expired: int | None = None  # whose row had expired when the transaction began
    row: Row | None = None  # written, not committed
    effect: int | None = None  # not committed either
    answer: int | None = None


class World(NamedTuple):
    processes: tuple[Process, ...] = (Process("ask"), Process("ask"), Process("purge"), Process("read"))
    row: Row | None = None  # committed
    effects: frozenset[int] = frozenset()  # committed since the last record ended to live
    lock: int | None = None  # who holds the advisory lock
    writer: int | None = None  # who holds the row's lock; on SQLite the database's

    def put(self, me: int, at: str, **changes: Any) -> "World":
        return self.become(me, self.processes[me]._replace(at=at, **changes))

    def become(self, me: int, process: Process) -> "World":
        return self._replace(processes=(*self.processes[:me], process, *self.processes[me + 1 :]))

    def claim(self, me: int) -> "World":
        """Write a claim, which takes the row's lock."""
        claim = Row(self.unused(), is_record=False)
        return self._replace(writer=me).put(me, "handle", row=claim, seen=None, expired=None)

    def commit(self, me: int, at: str) -> "World":
        """Everything that *me* has written is there for others, and its locks are free."""
        mine = self.processes[me]
        assert mine.effect is not None
        world = self._replace(row=mine.row or self.row, effects=self.effects | {mine.effect})
        return world._let_go(me).put(me, at, row=None, effect=None, answer=mine.effect)

    def roll_back(self, me: int) -> "World":
        """Nothing that *me* has written is there, its locks are free, and its client asks again."""
        return self._let_go(me).become(me, Process("ask"))

    def _let_go(self, me: int) -> "World":
        if me not in (self.lock, self.writer):
            return self
        lock = None if self.lock == me else self.lock
        return self._replace(lock=lock, writer=None if self.writer == me else self.writer)

    def end_of_record(self) -> "World":
        """The record lives no more: from now on its effect and its answer are an earlier one's."""
        processes = tuple(
            each._replace(answer=EARLIER) if each.answer in self.effects else each for each in self.processes
        )
        return self._replace(processes=processes, effects=frozenset())

    def unused(self) -> int:
        """The least number of an execution that is not in use: so the search comes to an end."""
        rows = (self.row, *(row for each in self.processes for row in (each.seen, each.row)))
        taken = self.effects | {row.by for row in rows if row is not None}
        taken |= {number for each in self.processes for number in (each.expired, each.effect, each.answer)}
        return next(number for number in range(len(taken) + 1) if number not in taken)


Step = Callable[[World, int], Iterator[tuple[str, World]]]
Protocol = dict[str, Step]

# --- what all databases have in common: handler, record, COMMIT, answer ---


def answered(w: World, me: int) -> Iterator[tuple[str, World]]:
    """What the committed row says to one who may not execute."""
    if w.row is not None and w.row.is_record:
        yield "finds the record", w.roll_back(me).put(me, "reply", answer=w.row.by if w.row.is_live else EARLIER)
    else:
        yield "finds a claim without an outcome, or nothing any more, and is refused", w.roll_back(me)


def handle(w: World, me: int) -> Iterator[tuple[str, World]]:
    claim = w.processes[me].row
    yield "pays", w.put(me, "record", effect=w.unused() if claim is None else claim.by)
    yield "is refused by its handler, and rolls back", w.roll_back(me)


def record(w: World, me: int) -> Iterator[tuple[str, World]]:
    effect = w.processes[me].effect
    assert effect is not None
    yield "writes the record", w.put(me, "commit", row=Row(effect, is_record=True))


def commit(w: World, me: int) -> Iterator[tuple[str, World]]:
    yield "commits", w.commit(me, "reply")
    yield "loses its connection before COMMIT arrives", w.roll_back(me)


def reply(w: World, me: int) -> Iterator[tuple[str, World]]:
    yield "gets its answer", w.put(me, "done")
    yield "never hears of it", w.put(me, "ask", answer=None)


# --- those who tidy, and the clock ---


def purge(w: World, me: int) -> Iterator[tuple[str, World]]:
    """The statement that takes the lock finds the row expired; a row that is locked already is passed by."""
    if w.row is not None and not w.row.is_live and w.writer is None:
        yield "locks the expired record", w._replace(writer=me).put(me, "delete")


def delete(w: World, me: int) -> Iterator[tuple[str, World]]:
    yield "deletes it", w._replace(row=None, writer=None).put(me, "purge")


def read(w: World, me: int) -> Iterator[tuple[str, World]]:
    if w.row is not None:
        yield "reads the record", w.put(me, "free", seen=Row(w.row.by, is_record=True))


def free(w: World, me: int) -> Iterator[tuple[str, World]]:
    """Only what was read, and only if no claim is in flight."""
    seen = w.processes[me].seen
    if w.lock is None and w.writer is None and w.row is not None and seen is not None and w.row.by == seen.by:
        yield "frees the key", w.end_of_record()._replace(row=None).put(me, "read", seen=None)
    else:
        yield "leaves the key alone", w.put(me, "read", seen=None)


COMMON: Protocol = {"handle": handle, "record": record, "commit": commit, "reply": reply} | {
    "purge": purge, "delete": delete, "read": read, "free": free
}  # fmt: skip

# --- what must hold, and the model of a protocol ---

CLIENTS = ("A", "B")
NAMES = (*CLIENTS, "The purge", "The operator")


def record_of(w: World) -> set[int]:
    return {w.row.by} if w.row is not None and w.row.is_record and w.row.is_live else set()


def answers(w: World) -> set[int | None]:
    return {each.answer for each in w.processes if each.at == "done"}


AT_MOST_ONE = "a key takes effect at most once while its record lives"
ONE_TO_ONE = "an effect is committed if, and only if, its record is"
NO_EMPTY_ANSWER = "no answer without its effect"
ONE_ANSWER = "all answers are the same while the record lives"
LAWS: dict[str, Callable[[World], bool]] = {
    AT_MOST_ONE: lambda w: len(w.effects) <= 1,
    ONE_TO_ONE: lambda w: w.effects == record_of(w),
    NO_EMPTY_ANSWER: lambda w: answers(w) <= w.effects | {EARLIER},
    ONE_ANSWER: lambda w: len(answers(w) & w.effects) <= 1,
}


def model(protocol: Protocol, *laws: str) -> Model:
    """Everything that can happen to one key under *protocol*, held against *laws*, or against all."""

    def moves(w: World) -> Iterator[Move]:
        for me, (name, process) in enumerate(zip(NAMES, w.processes, strict=True)):
            if process.at == "dead":
                yield Move("The database", f"notices that {name} is gone, and rolls back", w.roll_back(me))
            elif process.at != "done":
                for what, world in protocol[process.at](w, me):
                    yield Move(name, what, world)
                if name in CLIENTS and process.at not in ("ask", "reply"):
                    yield Move(name, KILLED, w.become(me, Process("dead")))
        if w.row is not None and w.row.is_live:
            yield Move("The record", "expires", w.end_of_record()._replace(row=w.row._replace(is_live=False)))

    return Model(
        start=World(),
        moves=moves,
        laws={name: holds for name, holds in LAWS.items() if not laws or name in laws},
        clients=CLIENTS,
        is_served=lambda w, client: w.processes[CLIENTS.index(client)].at == "done",
        helpers=frozenset({"The database", "The purge"}),
    )
