"""
How each database claims: steps as it takes them, each of which it does as one, and the tables made of them.

Not modelled: the shared lock that MariaDB's INSERT IGNORE leaves on a row which it did not write, statements that fail
because a server is away, and handlers that commit by themselves.
"""

from collections.abc import Iterator

from tests.model.world import COMMON, Protocol, World, answered

# --- PostgreSQL: one statement looks up, tries the lock and inserts, each at a moment of its own ---


def begin(w: World, me: int) -> Iterator[tuple[str, World]]:
    """Of now() too: what expires later lives as long as this transaction."""
    yield "begins", w.put(me, "look", expired=w.row.by if w.row and not w.row.is_live else None)


def is_free(w: World, me: int) -> bool:
    """Is no row there, by this transaction's clock?"""
    return w.row is None or w.row.by == w.processes[me].expired


def look(w: World, me: int) -> Iterator[tuple[str, World]]:
    """The statement's snapshot, which is the transaction's at REPEATABLE READ."""
    if is_free(w, me):
        yield "sees no record", w.put(me, "lock")
    else:
        yield from answered(w, me)


def lock(w: World, me: int) -> Iterator[tuple[str, World]]:
    if w.lock is None:
        yield "takes the lock", w._replace(lock=me).put(me, "insert")
    else:
        yield "finds the lock taken, and is refused", w.roll_back(me)


def insert(w: World, me: int) -> Iterator[tuple[str, World]]:
    """ON CONFLICT goes by what is committed now, whatever the snapshot shows; it waits for a purge's lock."""
    if w.writer is None:
        if is_free(w, me):
            yield "inserts its claim", w.claim(me)
        else:
            yield "inserts nothing, for a record is there now", w.put(me, "look again")


def look_again(w: World, me: int) -> Iterator[tuple[str, World]]:
    """A snapshot of its own."""
    if is_free(w, me):
        yield "finds that record purged, and starts again", w.roll_back(me)
    else:
        yield from answered(w, me)


def insert_repeatably(w: World, me: int) -> Iterator[tuple[str, World]]:
    """A row that the snapshot does not show is an error; it is one at SERIALIZABLE too."""
    if w.writer is None:
        if is_free(w, me):
            yield "inserts its claim", w.claim(me)
        else:
            yield "fails with 40001, and starts again", w.roll_back(me)


# --- MariaDB: one compound statement; each part that would wait for a row's lock gives up instead ---


def see(w: World, me: int) -> Iterator[tuple[str, World]]:
    if w.row is not None and w.row.is_live:
        yield "sees a record", w.put(me, "read record", answer=w.row.by)
    else:
        yield "sees no record", w.put(me, "claim row", seen=w.row)


def read_record(w: World, me: int) -> Iterator[tuple[str, World]]:
    yield from answered(w, me)


def read_record_repeatably(w: World, me: int) -> Iterator[tuple[str, World]]:
    yield "finds the record", w.put(me, "reply")


def claim_row(w: World, me: int) -> Iterator[tuple[str, World]]:
    """INSERT IGNORE where no row was seen, UPDATE where one had expired. Both go by what is committed now."""
    is_expired = w.row is not None and not w.row.is_live
    if w.writer is not None:
        yield "finds the row locked, and is refused", w.roll_back(me)
    elif is_expired if w.processes[me].seen else w.row is None:
        yield "writes its claim", w.claim(me)
    else:
        yield "writes nothing, for the row is another one now", w.put(me, "share", seen=None)


def share(w: World, me: int) -> Iterator[tuple[str, World]]:
    """A locking read: what is committed now, at each level."""
    if w.writer is not None:
        yield "finds the row locked, and is refused", w.roll_back(me)
    elif w.row is None or not w.row.is_live:
        yield "finds that row gone, and starts again", w.roll_back(me)
    else:
        yield from answered(w, me)


# --- SQLite: a look-up before the transaction, which is the only one that writes ---


def look_first(w: World, me: int) -> Iterator[tuple[str, World]]:
    if w.row is not None and w.row.is_live:
        yield from answered(w, me)
    else:
        yield "sees no record", w.put(me, "begin immediate")


def begin_immediate(w: World, me: int) -> Iterator[tuple[str, World]]:
    if w.writer is None:
        yield "begins, as the only writer", w._replace(writer=me).put(me, "upsert")


def upsert(w: World, me: int) -> Iterator[tuple[str, World]]:
    if w.row is None or not w.row.is_live:
        yield "writes its claim", w.claim(me)
    else:
        yield from answered(w, me)


# --- the tables ---

POSTGRESQL: Protocol = COMMON | {
    "ask": begin, "look": look, "lock": lock, "insert": insert, "look again": look_again
}  # fmt: skip
MARIADB: Protocol = COMMON | {"ask": see, "claim row": claim_row, "read record": read_record, "share": share}
SQLITE: Protocol = COMMON | {"ask": look_first, "begin immediate": begin_immediate, "upsert": upsert}

PROTOCOLS: dict[str, Protocol] = {
    "PostgreSQL, READ COMMITTED": POSTGRESQL,
    "PostgreSQL, REPEATABLE READ": POSTGRESQL | {"insert": insert_repeatably},
    "MariaDB, READ COMMITTED": MARIADB,
    "MariaDB, REPEATABLE READ": MARIADB | {"read record": read_record_repeatably},
    "SQLite": SQLITE,
}
