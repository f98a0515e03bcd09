"""All faults: what is promised under each, where it can be made, and the bug that it brings to light."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.faults import in_the_database, on_the_way
from benchmarks.faults.checker import LEFT, MORE_CHARGES, MORE_EFFECTS, NO_EFFECT, NO_RECORD, UNANSWERED, UNEXPECTED
from benchmarks.faults.stage import Stage

POSTGRESQL, MARIADB, MYSQL, SQLITE = "postgresql", "mariadb", "mysql", "sqlite"
ALL = (POSTGRESQL, MARIADB, MYSQL, SQLITE)
SERVERS = (POSTGRESQL, MARIADB, MYSQL)

NO_WIRE = "SQLite has no wire"
NO_SERVER = "SQLite has no server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """*promise* completes "one effect and one answer per key" for this fault; *caught* are kinds of violations."""

    name: str
    promise: str
    make: Callable[[Stage], None]
    bug: str
    caught: tuple[str, ...]
    bug_on_sqlite: str = ""  # where it has to be another
    kinds: tuple[str, ...] = ALL
    elsewhere: str = ""  # why it is not made on the other kinds
    rounds: int = 10
    megabytes: int = 0  # of a disk of its own

    def bug_on(self, kind: str) -> str:
        return (kind == SQLITE and self.bug_on_sqlite) or self.bug


FAULTS = (
    Fault(
        name="a request is lost before it reaches the server",
        promise="nothing was done; the retry executes",
        make=partial(on_the_way.lost_by_clients, "request"),
        bug="forgets",
        caught=(MORE_EFFECTS, NO_RECORD),
        rounds=30,
    ),
    Fault(
        name="a request is cut off in its body",
        promise="400, nothing was done; the retry executes",
        make=partial(on_the_way.lost_by_clients, "body"),
        bug="takes a part for the whole",
        caught=(UNEXPECTED, UNANSWERED),
        rounds=30,
    ),
    Fault(
        name="a body comes in chunks, without a length",
        promise="it is read to its end, or refused with 411; another body under the key does not get the answer",
        make=on_the_way.without_a_length,
        bug="takes it for empty",
        caught=(NO_EFFECT,),
        rounds=30,
    ),
    Fault(
        name="an answer is lost on the way to the client",
        promise="the work is committed; the retry gets its answer",
        make=partial(on_the_way.lost_by_clients, "reply"),
        bug="forgets",
        caught=(MORE_EFFECTS, NO_RECORD),
        rounds=30,
    ),
    Fault(
        name="a statement is lost on the way to the database",
        promise="500, or 503 before the handler; the retry executes",
        make=partial(on_the_way.statements_lost, "request"),
        bug="answers anyway",
        caught=(NO_EFFECT,),
        kinds=SERVERS,
        elsewhere=NO_WIRE,
        rounds=30,
    ),
    Fault(
        name="the reply to a statement is lost",
        promise="500, or 503 before the handler; the retry executes, or replays what had committed",
        make=partial(on_the_way.statements_lost, "reply"),
        bug="record outside the transaction",
        caught=(MORE_EFFECTS, NO_RECORD),
        kinds=SERVERS,
        elsewhere=NO_WIRE,
        rounds=30,
    ),
    Fault(
        name="COMMIT is lost on the way to the database",
        promise="500; nothing was done; the retry executes",
        make=partial(on_the_way.commits_lost, "request"),
        bug="answers anyway",
        caught=(NO_EFFECT,),
        kinds=SERVERS,
        elsewhere=NO_WIRE,
        rounds=20,
    ),
    Fault(
        name="the reply to COMMIT is lost",
        promise="500; the work is committed; the retry gets its answer",
        make=partial(on_the_way.commits_lost, "reply"),
        bug="record outside the transaction",
        caught=(MORE_EFFECTS, NO_RECORD),
        kinds=SERVERS,
        elsewhere=NO_WIRE,
        rounds=20,
    ),
    Fault(
        name="a gunicorn worker is killed with -9",
        promise="nothing is left of what had not committed; the retry executes",
        make=on_the_way.workers_killed,
        bug="early commit",
        caught=(LEFT, UNANSWERED),
        rounds=30,
    ),
    Fault(
        name="a gunicorn worker is killed with -9, in phases",
        promise="one order, one charge, one shipment: the retry goes on where it was",
        make=on_the_way.workers_killed_in_phases,
        bug="a key for each try",
        caught=(MORE_CHARGES,),
        rounds=30,
    ),
    Fault(
        name="a gunicorn worker is timed out",
        promise="as killed",
        make=on_the_way.workers_timed_out,
        bug="early commit",
        caught=(LEFT, UNANSWERED),
        rounds=6,
    ),
    Fault(
        name="gunicorn gets SIGTERM under load, and is started anew",
        promise="requests that end in time are answered; the others are as killed",
        make=on_the_way.terminated,
        bug="early commit",
        caught=(LEFT, UNANSWERED),
        rounds=4,
    ),
    Fault(
        name="a worker is frozen and comes back",
        promise="409 while its transaction lives; once the database has ended it, the worker cannot commit",
        make=on_the_way.frozen,
        bug="short lease",
        bug_on_sqlite="no claim",  # no claim can be taken over while a frozen writer holds the file
        caught=(MORE_EFFECTS,),
        rounds=8,
    ),
    Fault(
        name="the database is restarted under load",
        promise="503 while it is away; what had not committed is executed by the retry",
        make=in_the_database.restarted,
        bug="answers anyway",
        caught=(NO_EFFECT,),
        kinds=SERVERS,
        elsewhere=NO_SERVER,
        rounds=5,
    ),
    Fault(
        name="the database is killed with -9 under load",
        promise="as restarted: what has committed is in its log",
        make=in_the_database.killed,
        bug="answers anyway",
        caught=(NO_EFFECT,),
        kinds=SERVERS,
        elsewhere=NO_SERVER,
        rounds=8,
    ),
    Fault(
        name="the database is frozen and comes back",
        promise="requests wait, and go on",
        make=in_the_database.frozen,
        bug="no claim",
        caught=(MORE_EFFECTS,),
        kinds=SERVERS,
        elsewhere=NO_SERVER,
        rounds=6,
    ),
    Fault(
        name="pgbouncer in transaction mode, workers killed behind it",
        promise="as without it: nothing of ours is a session's",
        make=on_the_way.behind_a_pooler,
        bug="session lock",
        caught=(MORE_EFFECTS,),
        kinds=(POSTGRESQL,),
        elsewhere="pgbouncer is PostgreSQL's",
        rounds=20,
    ),
    Fault(
        name="handlers deadlock",
        promise="the victim is rolled back, 503; the retry executes",
        make=in_the_database.deadlocks,
        bug="swallows",
        caught=(NO_EFFECT,),
        kinds=SERVERS,
        elsewhere="SQLite has one writer",
        rounds=15,
    ),
    Fault(
        name="the disk is full",
        promise="500 or 503, nothing was done; the retry executes when there is room",
        make=in_the_database.full,
        bug="answers anyway",
        caught=(NO_EFFECT,),
        rounds=3,
        megabytes=512,
    ),
    Fault(
        name="the database has no connection left",
        promise="503, nothing was done; the retry executes",
        make=in_the_database.exhausted,
        bug="fails open",
        caught=(NO_RECORD, MORE_EFFECTS),
        kinds=SERVERS,
        elsewhere=NO_SERVER,
        rounds=6,
    ),
    Fault(
        name="old and new code at once",
        promise="the claims of one are seen by the other",
        make=on_the_way.old_and_new,
        bug="no claim",
        caught=(MORE_EFFECTS,),
        kinds=SERVERS,
        elsewhere="there is one way to claim on SQLite",
        rounds=4,
    ),
    Fault(
        name="the application's clock jumps",
        promise="expiry is the database's clock",
        make=on_the_way.clock_jumps,
        bug="own clock",
        caught=(MORE_EFFECTS,),
        rounds=6,
    ),
)
