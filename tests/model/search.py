"""Search every interleaving of a model, the shortest first, and tell in words how a state can be reached."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

KILLED = "is killed"  # as a move of a process says it
STUCK = "a client that retries gets a final answer"


class Move(NamedTuple):
    """*who* does *what*, and the *state* that follows."""

    who: str
    what: str
    state: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    What can happen. Each law is true of a state that is as it should be.

    For progress: `clients` are the names of those that retry, `is_served` tells whether one has its final answer, and
    `helpers` are those whose moves a client may count on beside its own.
    """

    start: Any
    moves: Callable[[Any], Iterable[Move]]
    laws: Mapping[str, Callable[[Any], bool]]
    clients: tuple[str, ...] = ()
    is_served: Callable[[Any, str], bool] = lambda state, client: True
    helpers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How far a search went. Where a *law* is broken, the *story* is a shortest way there."""

    states: int
    moves: int
    words: frozenset[str]  # of all moves: what has happened at all
    law: str | None = None
    story: tuple[str, ...] = ()


def search(model: Model) -> Result:
    """Look at every state that can be reached, up to the first that breaks a law; then for clients that are stuck."""
    return _Search(model).result()


class _Search:
    """States are numbered in the order in which they are found, which is that of their distance from the start."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.states = [model.start]
        self.number = {model.start: 0}
        self.came: list[tuple[int, Move] | None] = [None]  # from where, and by which move, a state was found first
        self.into: list[list[tuple[int, Move]]] = [[]]  # and all the ways that lead to it

    def result(self) -> Result:
        law, state = self._explore()
        if law is None and (stuck := self._first_stuck(alone=True)) is not None:
            # Where not even the other client's return helps, that is the better story.
            worse = self._first_stuck(alone=False)
            law, state = STUCK, stuck if worse is None else worse
        return Result(
            states=len(self.states),
            moves=sum(map(len, self.into)),
            words=frozenset(move.what for ways in self.into for _, move in ways),
            law=law,
            story=self._story(state) if law else (),
        )

    def _explore(self) -> tuple[str | None, int]:
        for current, state in enumerate(self.states):  # which grow meanwhile
            for law, holds in self.model.laws.items():
                if not holds(state):
                    return law, current
            for move in self.model.moves(state):
                there = self.number.setdefault(move.state, len(self.states))
                if there == len(self.states):
                    self.states.append(move.state)
                    self.came.append((current, move))
                    self.into.append([])
                self.into[there].append((current, move))
        return None, 0

    def _first_stuck(self, *, alone: bool) -> int | None:
        """
        The first state from which a client cannot get its answer by moves of the clients and the helpers; *alone*: by
        its own and the helpers', while the other client is killed and never comes back.
        """
        stuck = set()
        for client in self.model.clients:
            able = self.model.helpers | ({client} if alone else set(self.model.clients))
            served = [self.model.is_served(state, client) for state in self.states]
            queue = deque(number for number, is_served in enumerate(served) if is_served)
            while queue:
                for before, move in self.into[queue.popleft()]:
                    if not served[before] and (move.who in able or move.what == KILLED):
                        served[before] = True
                        queue.append(before)
            if not all(served):
                stuck.add(served.index(False))
        return min(stuck, default=None)

    def _story(self, state: int) -> tuple[str, ...]:
        moves = []
        while (step := self.came[state]) is not None:
            state, move = step
            moves.append(f"{move.who} {move.what}")
        return tuple(reversed(moves))
