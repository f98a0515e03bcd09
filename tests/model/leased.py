"""
The protocol of the RedisStore: a claim with an owner's token and a lease, for work that no transaction covers.

Two clients send one key, and again until they have an answer. An effect is there the moment that it happens, and
nothing takes it back. A process may stand still anywhere for as long as the clock likes, so a lease can run out at any
time; one that goes on renewing it is one of the cases.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.model.search import KILLED, Model, Move

EARLIER = -1  # the answer of an execution whose record has expired


class Entry(NamedTuple):
    """What the server keeps for the key. *token* is the owner's, and stands for its answer as well."""

    token: int
    is_record: bool = False
    is_leased: bool = True  # a claim whose owner is taken to be alive


class Client(NamedTuple):
    at: str = "ask"
    token: int | None = None
    answer: int | None = None


class World(NamedTuple):
    clients: tuple[Client, ...] = (Client(), Client())
    entry: Entry | None = None
    effects: frozenset[int] = frozenset()  # since the last record ended to live

    def put(self, me: int, client: Client) -> "World":
        return self._replace(clients=(*self.clients[:me], client, *self.clients[me + 1 :]))

    def pay(self, token: int) -> "World":
        """One effect more. Of those that no record names one is kept: more are no worse, and would have no end."""
        spoken = self.effects & self.mentioned()
        return self._replace(effects=spoken | {token, *sorted(self.effects - spoken)[:1]})

    def mentioned(self) -> set[int | None]:
        entries = {self.entry.token} if self.entry else set()
        return entries | {number for each in self.clients for number in (each.token, each.answer)}

    def unused(self) -> int:
        """The least token that is not in use: so the search comes to an end."""
        taken = self.effects | self.mentioned()
        return next(number for number in range(len(taken) + 1) if number not in taken)


class Rules(NamedTuple):
    """What the store is told, and what its server and its own code are worth."""

    retry: bool = False  # the option uncertain="retry": a claim whose lease is over is taken over
    forgets: bool = False  # the server: it evicts, or it restarts without what was persisted
    outlived: bool = False  # a claim expires while its process stands still
    trusts_any_token: bool = False  # a record is accepted with any token
    records_early: bool = False  # the record is written before the work is done


def steps(w: World, me: int, rules: Rules) -> Iterator[tuple[str, World]]:
    """Each thing that client *me* can do next. A script of the server is one step."""
    client, entry = w.clients[me], w.entry
    is_mine = entry is not None and entry.token == client.token
    match client.at:
        case "ask":
            if entry is None or is_mine or (rules.retry and not entry.is_record and not entry.is_leased):
                token = w.unused() if client.token is None else client.token
                world = w._replace(entry=Entry(token))
                words = "claims" if entry is None or is_mine else "takes the claim over"
                yield words, world.put(me, Client("handle", token))
                yield f"{words}, and does not hear of it", world.put(me, Client("ask", token))
            elif entry.is_record:
                yield "finds the record", w.put(me, Client("reply", answer=entry.token))
            elif not entry.is_leased:
                yield "is told that the outcome is unknown", w.put(me, Client("told"))
            # else it is in flight: nothing changes
        case "handle":
            if rules.records_early:
                early = w._replace(entry=Entry(client.token or 0, is_record=True, is_leased=False))
                yield "writes the record before it pays", early.put(me, client)
            yield "pays", w.pay(client.token or 0).put(me, client._replace(at="complete"))
            freed = w._replace(entry=None) if is_mine else w
            yield "refuses by itself, and frees the key", freed.put(me, Client())
        case "complete":
            if entry is None or is_mine or rules.trusts_any_token:
                world = w._replace(entry=Entry(client.token or 0, is_record=True, is_leased=False))
                yield "writes the record", world.put(me, Client("reply", answer=client.token))
            else:
                yield "comes too late: the claim is another's", w.put(me, Client())
        case "reply":
            yield "gets its answer", w.put(me, client._replace(at="done"))
            yield "never hears of it", w.put(me, Client())
    if client.at in ("handle", "complete") and entry and is_mine and not entry.is_record and not entry.is_leased:
        yield "renews its lease", w._replace(entry=entry._replace(is_leased=True))
    if client.token is not None:
        yield KILLED, w.put(me, Client())


def time_and_server(w: World, rules: Rules) -> Iterator[Move]:
    if w.entry is None:
        return
    if not w.entry.is_record and w.entry.is_leased:
        yield Move("The lease", "runs out", w._replace(entry=w.entry._replace(is_leased=False)))
    if w.entry.is_record or rules.outlived:
        clients = tuple(each._replace(answer=EARLIER) if each.answer in w.effects else each for each in w.clients)
        what = "expires" if w.entry.is_record else "expires as a claim, while its process stands still"
        yield Move("The record", what, World(clients))
    if rules.forgets:
        yield Move("The server", "forgets the key", w._replace(entry=None))


def answers(w: World) -> set[int | None]:
    return {each.answer for each in w.clients if each.at == "done"}


AT_MOST_ONE = "a key takes effect at most once while its record lives"
RECORDED = "no record without its effect"
ONE_ANSWER = "all answers are the same while the record lives"
LAWS: dict[str, Callable[[World], bool]] = {
    AT_MOST_ONE: lambda w: len(w.effects) <= 1,
    RECORDED: lambda w: w.entry is None or not w.entry.is_record or w.entry.token in w.effects,
    ONE_ANSWER: lambda w: len(answers(w) & w.effects) <= 1,
}

CLIENTS = ("A", "B")


def model(rules: Rules, *laws: str) -> Model:
    """Everything that can happen to one key under *rules*, held against *laws*."""

    def moves(w: World) -> Iterator[Move]:
        for me, name in enumerate(CLIENTS):
            for what, world in steps(w, me, rules):
                yield Move(name, what, world)
        yield from time_and_server(w, rules)

    return Model(
        start=World(),
        moves=moves,
        laws={name: holds for name, holds in LAWS.items() if name in laws},
        clients=CLIENTS,
        # Refused for good is an answer of a kind: what became of the work is for people to find out.
        is_served=lambda w, client: w.clients[CLIENTS.index(client)].at in ("done", "told"),
        helpers=frozenset({"The lease"}),
    )


class Promise(NamedTuple):
    rules: Rules
    laws: tuple[str, ...]


PROMISES: dict[str, Promise] = {
    'RedisStore, uncertain="refuse"': Promise(Rules(), (AT_MOST_ONE, RECORDED, ONE_ANSWER)),
    # It may pay twice: that is what it was told. The answer is one all the same.
    'RedisStore, uncertain="retry"': Promise(Rules(retry=True), (ONE_ANSWER,)),
}
# What a store cannot promise whose work is not in it: its server forgets, a process stands still for as long as a
# record lives, or the store was told to repeat what is uncertain.
NOT_PROMISED: dict[str, Promise] = {
    "a server that forgets": Promise(Rules(forgets=True), (AT_MOST_ONE,)),
    "a process that stands still until its claim expires": Promise(Rules(outlived=True), (AT_MOST_ONE,)),
    "takeover of a claim whose lease is over": Promise(Rules(retry=True), (AT_MOST_ONE,)),
}
BROKEN: dict[str, Promise] = {
    "a record that is written before the work": Promise(Rules(records_early=True), (RECORDED,)),
    "a stale token that is accepted": Promise(Rules(retry=True, trusts_any_token=True), (ONE_ANSWER,)),
}
