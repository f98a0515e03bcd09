"""
Protocols that look as if they would do, each one change away from a right one, and the law that each breaks.

A search that refuted none of them would prove nothing by what it finds right.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.databases import MARIADB, POSTGRESQL, begin, is_free
from tests.model.search import STUCK
from tests.model.world import (
    AT_MOST_ONE,
    NO_EMPTY_ANSWER,
    ONE_ANSWER,
    ONE_TO_ONE,
    Protocol,
    Row,
    World,
    answered,
    handle,
)

Steps = Iterator[tuple[str, World]]


class Broken(NamedTuple):
    protocol: Protocol
    law: str  # the one that it breaks; others too, perhaps sooner


# --- no lock: look, work, write the record ---


def no_lock(w: World, me: int) -> Steps:
    yield "goes on without a lock", w.put(me, "handle")


# --- the look-up and the lock of one statement, and nobody looks at what the INSERT did ---


def insert_blindly(w: World, me: int) -> Steps:
    """The record will overwrite what is there."""
    yield "trusts what it saw before it had the lock", w.put(me, "handle", expired=None)


# --- lock first, then look, then work; but the lock is given back before COMMIT ---


def begin_then_lock(w: World, me: int) -> Steps:
    for what, world in begin(w, me):
        yield what, world.put(me, "lock")


def lock_then_look(w: World, me: int) -> Steps:
    if w.lock is None:
        yield "takes the lock", w._replace(lock=me).put(me, "look")


def look_under_lock(w: World, me: int) -> Steps:
    if is_free(w, me):
        yield "sees no record", w.put(me, "handle", expired=None)
    else:
        yield from answered(w, me)


def record_last(w: World, me: int) -> Steps:
    effect = w.processes[me].effect
    if w.writer is None and effect is not None:
        yield "writes the record", w._replace(writer=me).put(me, "commit", row=Row(effect, is_record=True))


def record_and_unlock(w: World, me: int) -> Steps:
    for what, world in record_last(w, me):
        yield f"{what}, and gives the lock back", world._replace(lock=None)


# --- the record in a transaction of its own, after the work's ---


def commit_work(w: World, me: int) -> Steps:
    yield "commits its work", w.put(me, "record", row=None).commit(me, "write down")


def write_down(w: World, me: int) -> Steps:
    answer = w.processes[me].answer
    if w.writer is None and answer is not None:
        yield "commits the record", w._replace(row=Row(answer, is_record=True)).put(me, "reply")


# --- the claim in a transaction of its own, before the work's ---


def claim_first(w: World, me: int) -> Steps:
    if w.row is None or not w.row.is_live:
        if w.writer is None:
            claim = Row(w.unused(), is_record=False)
            yield "commits a claim", w._replace(row=claim).put(me, "handle", row=claim)
    elif w.row.is_record:
        yield from answered(w, me)


def handle_or_delete_claim(w: World, me: int) -> Steps:
    """It does free its key, whenever it is there to do so."""
    yield "pays", next(handle(w, me))[1]
    yield "is refused by its handler, and deletes its claim", w._replace(row=None).roll_back(me)


def nobody(w: World, me: int) -> Steps:
    yield from ()


def claim_first_or_take_over(w: World, me: int) -> Steps:
    yield from claim_first(w, me)
    if w.row is not None and w.row.is_live and not w.row.is_record:
        claim = Row(w.unused(), is_record=False)
        yield "waits, and takes the claim over", w._replace(row=claim).put(me, "handle", row=claim)


# --- an error out of COMMIT that nobody looks at ---


def commit_carelessly(w: World, me: int) -> Steps:
    effect = w.processes[me].effect
    yield "commits", w.commit(me, "reply")
    yield (
        "loses its connection before COMMIT arrives, and does not notice",
        w.roll_back(me).put(me, "reply", answer=effect),
    )


# --- a purge, and an operator, that act on what they once read ---


def read_expired(w: World, me: int) -> Steps:
    if w.row is not None and not w.row.is_live:
        yield "reads that the record has expired", w.put(me, "delete")


def delete_by_key(w: World, me: int) -> Steps:
    if w.writer is None:
        yield "deletes the key's row", w._replace(row=None).put(me, "purge")


def free_by_key(w: World, me: int) -> Steps:
    seen = w.processes[me].seen
    if w.writer is None:
        is_same = w.row is not None and seen is not None and w.row.by == seen.by
        world = w.end_of_record() if is_same else w  # else nobody has decided that
        yield "deletes the key's row", world._replace(row=None).put(me, "read", seen=None)


# --- MariaDB: a count of rows that says 1 for a row that was left as it is ---


def misread_count(w: World, me: int) -> Steps:
    """ON DUPLICATE KEY UPDATE on a connection that counts the rows that it found."""
    if w.writer is None:
        yield "is told that it changed a row", w.put(me, "handle", seen=None)
    else:
        yield "finds the row locked, and is refused", w.roll_back(me)


LOCK_FIRST: Protocol = POSTGRESQL | {
    "ask": begin_then_lock, "lock": lock_then_look, "look": look_under_lock, "record": record_last
}  # fmt: skip

BROKEN: dict[str, Broken] = {
    "no lock": Broken(POSTGRESQL | {"lock": no_lock}, AT_MOST_ONE),
    "takeover of an orphan": Broken(POSTGRESQL | {"ask": claim_first_or_take_over}, AT_MOST_ONE),
    "an orphan that nobody takes over": Broken(
        # Without purge and operator: they would not help, and the search is a whole one.
        POSTGRESQL | {"ask": claim_first, "handle": handle_or_delete_claim, "purge": nobody, "read": nobody},
        STUCK,
    ),
    "record outside the transaction": Broken(
        LOCK_FIRST | {"record": commit_work, "write down": write_down}, AT_MOST_ONE
    ),
    "lock given back before COMMIT": Broken(LOCK_FIRST | {"record": record_and_unlock}, AT_MOST_ONE),
    "COMMIT's error swallowed": Broken(POSTGRESQL | {"commit": commit_carelessly}, NO_EMPTY_ANSWER),
    "look-up not repeated after the lock": Broken(POSTGRESQL | {"insert": insert_blindly}, AT_MOST_ONE),
    "a row count that says 1 for nothing": Broken(MARIADB | {"claim row": misread_count}, ONE_ANSWER),
    "purge by an old reading": Broken(POSTGRESQL | {"purge": read_expired, "delete": delete_by_key}, ONE_TO_ONE),
    "an operator who frees by key": Broken(POSTGRESQL | {"free": free_by_key}, ONE_TO_ONE),
}
