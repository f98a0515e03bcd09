"""
The protocol of phased mode: a claim, an order in the database, a charge at another system, a record.

Two clients send one key, and again until they have an answer; a resumer takes over what was interrupted, and gets no
answer itself. Any of the three may stand still anywhere while its lease runs out, and go on later. A record does not
expire here: a run does not either, and what ends a record's life is in the other models.

Results of phases have no names here: each is that of the one effect which the laws allow, so all answers are the same.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from tests.model.search import KILLED, Model, Move

NOBODY = -1  # the owner of a run whose process has ended
ORDER, CHARGE = 0, 1  # the phases, and where `World.written` counts what they have written
MANY = 2  # more effects are no worse, and would have no end
NAMES = ("A", "B", "The resumer")
RESUMER = 2
LOST = "has lost its run, and commits nothing"


class Run(NamedTuple):
    """The key's row while its run goes on. *owner* stands for the token, *done* is how many phases are recorded."""

    owner: int
    done: int = 0
    is_leased: bool = True


class Process(NamedTuple):
    at: str = "ask"
    done: int = 0  # phases whose results it has
    is_resumed: bool = False
    seen: Run | None = None  # what it is about to take over
    is_cut: bool = False  # its session at the database is gone, and it does not know


class World(NamedTuple):
    processes: tuple[Process, ...] = (Process(), Process(), Process())
    run: Run | None = None
    is_recorded: bool = False
    written: tuple[int, int] = (0, 0)  # how often each phase's rows are committed
    charges: int = 0  # at the other system
    is_on_its_way: bool = False  # a charge for whose answer nobody waits any more
    lock: int | None = None  # who holds the row's lock; on SQLite the database's

    def put(self, me: int, at: str, **changes: Any) -> "World":
        return self.become(me, self.processes[me]._replace(at=at, **changes))

    def become(self, me: int, process: Process) -> "World":
        return self._replace(processes=(*self.processes[:me], process, *self.processes[me + 1 :]))

    def lease(self, is_leased: bool) -> "World":
        return self if self.run is None else self._replace(run=self.run._replace(is_leased=is_leased))

    def write(self, phase: int) -> "World":
        counts = [min(count + (each == phase), MANY) for each, count in enumerate(self.written)]
        return self._replace(written=(counts[ORDER], counts[CHARGE]))

    def record(self, done: int) -> "World":
        return self if self.run is None else self._replace(run=self.run._replace(done=done))

    def let_go(self, me: int) -> "World":
        return self._replace(lock=None) if self.lock == me else self

    def is_owner(self, me: int) -> bool:
        return self.run is not None and self.run.owner == me

    def end(self, me: int, at: str = "ask") -> "World":
        """The attempt is over. What was not committed is gone, and nobody has its token any more."""
        run = self.run._replace(owner=NOBODY) if self.run is not None and self.is_owner(me) else self.run
        return self.let_go(me)._replace(run=run).become(me, Process(at))

    def give_back(self, me: int, at: str = "ask") -> "World":
        """The attempt is over, and its lease too."""
        return (self.lease(False) if self.is_owner(me) else self).end(me, at)


class Foreign(Enum):
    """How the phase that charges is kept from charging twice."""

    KEY = "key"  # the other system answers a key that it knows as before
    PROBE = "probe"  # it knows no keys, and can be asked
    UNSURE = "unsure"  # neither, and the phase says so
    NOTHING = "nothing"  # neither, and the phase does not say so


class Rules(NamedTuple):
    foreign: Foreign = Foreign.KEY
    is_one_writer: bool = False  # SQLite: whoever may write has the whole database
    loses_calls: bool = False  # a call arrives at the other system when its process has long given it up
    ends_sessions: bool = False  # the database: of a process that stands still in a transaction
    asks_for_no_token: bool = False
    records_alone: bool = False  # the recovery point is committed after the phase's work, by itself
    records_first: bool = False  # the recovery point is committed before the phase's work
    holds_nothing: bool = False  # a phase does not hold its row while it charges
    skips_probe: bool = False
    makes_new_keys: bool = False  # at each attempt

    @property
    def may_ask(self) -> bool:
        return self.foreign in (Foreign.PROBE, Foreign.UNSURE)


Steps = Iterator[tuple[str, World]]


def steps(w: World, me: int, rules: Rules) -> Steps:
    """Each thing that process *me* can do next. A transaction that nobody can look into is one step."""
    process = w.processes[me]
    yield from STEPS[process.at](w, me, rules)
    if process.at in RUNNING:
        if w.run is not None and w.is_owner(me) and not w.run.is_leased:
            yield "renews its lease", w.lease(True)
        yield KILLED, w.put(me, "dead") if w.lock == me else w.end(me)


def ask(w: World, me: int, rules: Rules) -> Steps:
    if w.is_recorded:
        if me != RESUMER:
            yield "finds the record", w.put(me, "reply")
    elif w.run is None:
        if me != RESUMER:
            yield "finds nothing", w.put(me, "begin")
    elif not w.run.is_leased:
        yield "finds a run that was interrupted", w.put(me, "take over", seen=w.run)
    # else it is in progress: nothing changes


def begin(w: World, me: int, rules: Rules) -> Steps:
    if w.run is not None or w.is_recorded:
        yield "finds the key claimed, and starts again", w.become(me, Process())
    elif w.lock is None:
        yield "commits its claim", w._replace(run=Run(me)).put(me, "order")


def take_over(w: World, me: int, rules: Rules) -> Steps:
    """The row as it was seen, if its lease is over still; nobody waits for a process that holds it."""
    seen = w.processes[me].seen
    if seen is None or w.run != seen:
        yield "finds the run changed, and starts again", w.become(me, Process())
    elif w.lock is None:
        process = Process(done=seen.done, is_resumed=True)
        world = w._replace(run=seen._replace(owner=me, is_leased=True)).become(me, process)
        yield "takes the run over", goes_on(world, me, rules)
    elif not rules.is_one_writer:
        yield "finds the run's row held, and is refused", w.become(me, Process())


def goes_on(w: World, me: int, rules: Rules) -> World:
    """The handler, behind the phases whose results it has."""
    process = w.processes[me]
    asks = process.is_resumed and rules.may_ask and not rules.skips_probe
    return w.put(me, ("order", "probe" if asks else "charge", "finish")[process.done])


# --- the phases ---


def enter(w: World, me: int, rules: Rules, then: str, *, holds: bool) -> Steps:
    """Begin a phase; with *holds*, only if the run still is one's own, and its row is held from here on."""
    words = "begins its first phase" if then == "create" else "begins the phase that charges"
    if rules.records_first:
        yield from record_first(w, me, then)
    elif not holds:
        yield words, w.put(me, then)
    elif not w.is_owner(me):
        yield LOST, w.end(me)
    elif w.lock is None:
        yield words, w._replace(lock=me).put(me, then)


def enter_order(w: World, me: int, rules: Rules) -> Steps:
    yield from enter(w, me, rules, "create", holds=rules.is_one_writer)


def enter_charge(w: World, me: int, rules: Rules) -> Steps:
    yield from enter(w, me, rules, "call", holds=rules.is_one_writer or (rules.may_ask and not rules.holds_nothing))


def create(w: World, me: int, rules: Rules) -> Steps:
    yield "creates the order", w.put(me, "record order")
    is_untouched = w.is_owner(me) and not w.processes[me].is_resumed and w.run == Run(me, 0, w.run.is_leased)
    freed = w._replace(run=None).end(me) if is_untouched else w.give_back(me)
    yield "raises, and nothing was done" if is_untouched else "raises", freed


def probe(w: World, me: int, rules: Rules) -> Steps:
    if rules.foreign is Foreign.UNSURE:
        yield "cannot know whether it was charged, and leaves the outcome unsettled", w.give_back(me, "told")
    elif w.charges:
        yield "asks whether it was charged: it was", w.put(me, "record charge")
    else:
        yield "asks whether it was charged: it was not", w.put(me, "charge")


def charge(w: World, rules: Rules) -> World:
    is_known = rules.foreign is Foreign.KEY and w.charges and not rules.makes_new_keys
    return w if is_known else w._replace(charges=min(w.charges + 1, MANY))


def call(w: World, me: int, rules: Rules) -> Steps:
    yield "charges", charge(w, rules).put(me, "record charge")
    yield "charges, and hears nothing in time", charge(w, rules).give_back(me)
    if rules.loses_calls:
        yield "sends a charge, and gives it up", w._replace(is_on_its_way=True).give_back(me)


def advance(w: World, me: int, rules: Rules) -> Steps:
    """Write the recovery point, which takes the row's lock, under the token."""
    if not w.is_owner(me) and not rules.asks_for_no_token:
        yield LOST, w.end(me)
    elif w.lock in (None, me):
        then = "commit order" if w.processes[me].at == "record order" else "commit charge"
        yield "writes its recovery point", w._replace(lock=me).put(me, then)


def commit(w: World, me: int, rules: Rules) -> Steps:
    process = w.processes[me]
    phase = ORDER if process.at == "commit order" else CHARGE
    if process.is_cut:
        yield "finds its session gone", w.give_back(me)
        return
    done = w.write(phase).let_go(me).put(me, "", done=phase + 1)
    if rules.records_alone:
        yield "commits its work", done.put(me, "write down")
        return
    done = done.record(phase + 1)
    yield "commits", goes_on(done, me, rules)
    yield "commits, and does not hear of it", done.give_back(me)
    yield "loses its connection before COMMIT arrives", w.give_back(me)


def finish(w: World, me: int, rules: Rules) -> Steps:
    if not w.is_owner(me):
        yield LOST, w.end(me)
    elif w.lock is None:
        recorded = w._replace(run=None, is_recorded=True).become(me, Process())
        yield "commits the record", recorded if me == RESUMER else recorded.put(me, "reply")
        yield "commits the record, and does not hear of it", recorded


def reply(w: World, me: int, rules: Rules) -> Steps:
    yield "gets its answer", w.put(me, "done")
    yield "never hears of it", w.put(me, "ask")


def told(w: World, me: int, rules: Rules) -> Steps:
    yield "asks again", w.put(me, "ask")


# --- recovery points in transactions of their own ---


def write_down(w: World, me: int, rules: Rules) -> Steps:
    if w.is_owner(me):
        yield "commits the recovery point", goes_on(w.record(w.processes[me].done), me, rules)
    else:
        yield LOST, w.end(me)


def record_first(w: World, me: int, then: str) -> Steps:
    phase = ORDER if then == "create" else CHARGE
    if w.is_owner(me):
        yield "commits the recovery point before the work", w.record(phase + 1).put(me, "work", done=phase + 1)
    else:
        yield LOST, w.end(me)


def work(w: World, me: int, rules: Rules) -> Steps:
    phase = w.processes[me].done - 1
    world = w if phase == ORDER else charge(w, rules)
    yield "commits its work", goes_on(world.write(phase), me, rules)


def nothing(w: World, me: int, rules: Rules) -> Steps:
    yield from ()


STEPS: dict[str, Callable[[World, int, Rules], Steps]] = {
    "ask": ask, "begin": begin, "take over": take_over, "reply": reply, "told": told, "done": nothing, "dead": nothing
} | {
    "order": enter_order, "create": create, "record order": advance, "commit order": commit,
    "probe": probe, "charge": enter_charge, "call": call, "record charge": advance, "commit charge": commit,
    "finish": finish, "write down": write_down, "work": work,
}  # fmt: skip
RUNNING = set(STEPS) - {"ask", "begin", "take over", "reply", "told", "done", "dead"}

# --- what must hold, and the model ---

ONCE = "each phase's rows are committed at most once"
CHARGED_ONCE = "the other system is charged at most once"
IN_ORDER = "no charge without the order, and no answer without both"
LAWS: dict[str, Callable[[World], bool]] = {
    ONCE: lambda w: max(w.written) <= 1,
    CHARGED_ONCE: lambda w: w.charges <= 1,
    IN_ORDER: lambda w: (not w.charges or w.written[ORDER] > 0) and (not w.is_recorded or is_whole(w)),
}


def is_whole(w: World) -> bool:
    return min(w.charges, *w.written) > 0


def model(rules: Rules, *laws: str) -> Model:
    """Everything that can happen to one key under *rules*, held against *laws*, or against all."""

    def moves(w: World) -> Iterator[Move]:
        for me, (name, process) in enumerate(zip(NAMES, w.processes, strict=True)):
            for what, world in steps(w, me, rules):
                yield Move(name, what, world)
            if process.at == "dead":
                yield Move("The database", f"notices that {name} is gone, and rolls back", w.end(me))
            elif rules.ends_sessions and w.lock == me:
                cut = w.let_go(me).become(me, process._replace(is_cut=True))
                yield Move("The database", f"ends the session of {name}, who stands still", cut)
        if w.run is not None and w.run.is_leased:
            yield Move("The lease", "runs out", w.lease(False))
        if w.is_on_its_way:
            yield Move("The network", "brings the charge at last", charge(w, rules)._replace(is_on_its_way=False))

    served = {"done", "told"} if rules.foreign is Foreign.UNSURE else {"done"}
    return Model(
        start=World(),
        moves=moves,
        laws={name: holds for name, holds in LAWS.items() if not laws or name in laws},
        clients=NAMES[:RESUMER],
        is_served=lambda w, client: w.processes[NAMES.index(client)].at in served,
        helpers=frozenset({"The lease", "The database"}),
    )


class Promise(NamedTuple):
    rules: Rules
    laws: tuple[str, ...] = tuple(LAWS)


PROMISES: dict[str, Promise] = {
    "Phases, a charge with a key": Promise(Rules(Foreign.KEY, loses_calls=True)),
    "Phases, a charge with a key, SQLite": Promise(Rules(Foreign.KEY, is_one_writer=True)),
    "Phases, a charge with a probe": Promise(Rules(Foreign.PROBE)),
    "Phases, a charge with a probe, SQLite": Promise(Rules(Foreign.PROBE, is_one_writer=True)),
    "Phases, a charge with neither": Promise(Rules(Foreign.UNSURE, loses_calls=True)),
    "Phases, a charge with neither, SQLite": Promise(Rules(Foreign.UNSURE, is_one_writer=True)),
}
# What no phase can promise that reaches a system without keys.
NOT_PROMISED: dict[str, Promise] = {
    "a charge with neither, and no word of it": Promise(Rules(Foreign.NOTHING), (CHARGED_ONCE,)),
    "a probe that is asked while a call is under way": Promise(Rules(Foreign.PROBE, loses_calls=True), (CHARGED_ONCE,)),
    "a probe, and a database that ends sessions": Promise(Rules(Foreign.PROBE, ends_sessions=True), (CHARGED_ONCE,)),
}
BROKEN: dict[str, Promise] = {
    "a phase's token that nobody asks for": Promise(Rules(asks_for_no_token=True), (ONCE,)),
    "a recovery point after its phase's commit": Promise(Rules(records_alone=True), (ONCE,)),
    "a recovery point before its phase's commit": Promise(Rules(records_first=True), (IN_ORDER,)),
    "a takeover while the owner lives in its phase": Promise(Rules(Foreign.PROBE, holds_nothing=True), (CHARGED_ONCE,)),
    "a probe that is skipped": Promise(Rules(Foreign.PROBE, skips_probe=True), (CHARGED_ONCE,)),
    "another key at each attempt": Promise(Rules(makes_new_keys=True), (CHARGED_ONCE,)),
}
