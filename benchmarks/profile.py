"""
Python's share of a protected request, by part: a stopwatch around each of our functions, in the place where it runs.

A function's time is its own, without that of the functions inside it that have a stopwatch too, and without what the
stopwatches add, which is measured beforehand. Figures are medians over all requests. `--functions` prints a line for
each function; with `REDIS_URL`, and `KEYS=redis` or `REPLAY_CACHE=1`, those of that way as well.
"""

import gc
import inspect
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any

from benchmarks.calls import Caller, database

WARM_UP = 100  # rounds
CALIBRATIONS, CALLS = 200, 100
BARE = "Django, DRF and the view"
DRIVER, SERVER = "the driver", "the server"
EDGE, STORES = "django_idempotency.adapters", "django_idempotency.stores"

# By part, each function where it is looked up when it is called: `module:name` or `module:Class.method`.
PARTS: dict[str, tuple[str, ...]] = {
    BARE: (
        "django.core.handlers.wsgi:WSGIHandler.__call__",
        "benchmarks.payments.views:pay",
        "rest_framework.views:APIView.finalize_response",
        "django.template.response:SimpleTemplateResponse.render",
        "django.db.transaction:Atomic.__enter__",
        "django.db.transaction:Atomic.__exit__",
        "django.db.backends.utils:CursorWrapper._execute",
    ),
    "decorator, edge": (
        "benchmarks.payments.views:Protected.post",
        "django_idempotency.protection.views:_owner_and_request",
        "django_idempotency.protection.views:check_dispatch",
        "django_idempotency.protection.views:call",
        "django_idempotency.protection.views:_adapter",
    ),
    "policy look-up": (
        "django_idempotency.protection.views:_policy",
        "django_idempotency.conf:database",
    ),
    "key": (f"{EDGE}.attempts:AttemptReader.read_key",),
    "scope, operation, identity": (
        f"{EDGE}.attempts:AttemptReader.read",
        f"{EDGE}.attempts:default_scope",
        f"{EDGE}.attempts:route",
        f"{EDGE}.attempts:Identity",
        f"{EDGE}.attempts:Attempt",
        f"{EDGE}.attempts:request_id",
    ),
    "fingerprint": (
        f"{EDGE}.attempts:meaning",
        f"{EDGE}.attempts:body_digest",
        f"{EDGE}.attempts:digest",
    ),
    "decisions": (
        "django_idempotency.protection.views:run",
        "django_idempotency.engine.run:_decide_until_final",
        "django_idempotency.engine.execution:Execution.joined",
        "django_idempotency.engine.execution:Execution.act",
        "django_idempotency.engine.transactional:TransactionalExecution.try_once",
        "django_idempotency.engine.transactional:TransactionalExecution._claim_and_act",
        "django_idempotency.engine.transactional:decide",
        "django_idempotency.engine.transactional:settle",
    ),
    "claim": (
        f"{STORES}.database:DatabaseStore.database",
        f"{STORES}.database:DatabaseStore.look_up",
        f"{STORES}.database:DatabaseStore.begin",
        f"{STORES}.database:DatabaseStore.claim",
    ),
    "transaction and its watch": (
        "django_idempotency.engine.transactional:atomic_phase",
        "django_idempotency.engine.transactional:TransactionalExecution.carry_out",
        "django_idempotency.engine.execution:Execution.run_handler",
        "django_idempotency.engine.execution:OperationHandle",
        "django_idempotency.engine.watch:TransactionWatch.__init__",
        "django_idempotency.engine.watch:TransactionWatch.__enter__",
        "django_idempotency.engine.watch:TransactionWatch.__exit__",
        "django_idempotency.engine.watch:TransactionWatch._own",
        "django_idempotency.engine.watch:TransactionWatch._strange",
        "django_idempotency.engine.watch:TransactionWatch.rollback_requested",
    ),
    "capture of status, headers and body": (
        f"{EDGE}.drf:DrfAdapter.capture",
        f"{EDGE}.plain:PlainAdapter.capture",
        f"{EDGE}.plain:PlainAdapter.make_answer",
        f"{EDGE}.plain:rendered",
        f"{EDGE}.plain:storable_headers",
        f"{EDGE}.plain:CompletionRecord",
        "django_idempotency.core.record:CompletionRecord.head",
    ),
    "record": (f"{STORES}.database:DatabaseStore.complete",),
    "replayed response": (
        f"{EDGE}.drf:DrfAdapter.replay",
        f"{EDGE}.plain:PlainAdapter.fill",
        "django_idempotency.core.record:CompletionRecord.from_stored",
    ),
    "log, signal, count": (
        "django_idempotency.engine.announcements:executed",
        "django_idempotency.engine.announcements:replayed",
        "django_idempotency.operations.counts:count",
        "django_idempotency.operations.counts:counter.add",
        "django_idempotency.operations.counts:counter.flush_if_due",
    ),
}

OF_THE_DATABASE = {
    "sqlite": {SERVER: ("django.db.backends.sqlite3.base:SQLiteCursorWrapper.execute",)},
    "postgresql": {
        DRIVER: (
            "psycopg:Cursor.execute",
            "psycopg:ClientCursor._convert_query",
            "psycopg:Cursor._set_results",
            "psycopg:Cursor._select_current_result",
            "psycopg:Cursor.fetchone",
            "psycopg:Connection.commit",
        ),
        SERVER: ("psycopg:Connection.wait",),
    },
}

# With `REDIS_URL`.
OF_REDIS: dict[str, tuple[str, ...]] = {
    "claim": (
        f"{STORES}.redis:RedisStore.claim",
        f"{STORES}.redis:RedisStore._claim",
        f"{STORES}.redis.replay_cache:ReplayCache.get",
        f"{STORES}.redis.replay_cache:ReplayCache._decode",
    ),
    "decisions": (
        "django_idempotency.engine.leased:LeasedExecution.try_once",
        "django_idempotency.engine.leased:decide",
        "django_idempotency.engine.leased:settle",
    ),
    "lease": (
        "django_idempotency.engine.leased:LeasedExecution.carry_out",
        "django_idempotency.engine.leased:LeasedExecution._complete",
        "django_idempotency.engine.leased:Lease",
        "django_idempotency.engine.leased:keeper.hold",
        "django_idempotency.engine.leased:keeper.drop",
    ),
    "record": (
        f"{STORES}.redis:RedisStore.complete",
        f"{STORES}.redis.replay_cache:ReplayCache.put",
        f"{STORES}.redis.replay_cache:ReplayCache._encode",
    ),
    # None of its client's, which the store uses if they are replaced.
    "redis-py": (
        f"{STORES}.redis.client:RedisAlias.run",
        f"{STORES}.redis.client:RedisAlias.get",
        f"{STORES}.redis.client:RedisAlias._ask",
        "redis.connection:AbstractConnection.pack_command",
        "redis.connection:AbstractConnection.can_read",
        "redis.connection:AbstractConnection.send_packed_command",
        "redis.connection:AbstractConnection.read_response",
    ),
    SERVER: ("redis._parsers.socket:SocketBuffer._read_from_socket",),
}


class Stopwatch:
    """What each function takes by itself, in nanoseconds since `own` was last emptied."""

    def __init__(self) -> None:
        self.own: dict[str, float] = defaultdict(float)
        self._inside = [0.0]  # what the functions inside each running one have taken
        self._within = self._around = 0.0  # what a stopwatch adds to its own function, and to the one around it
        self._calibrate()

    def put(self, where: str) -> None:
        """Put a stopwatch on the function at *where*, for good. Raises `AttributeError` if there is none."""
        module, _, path = where.partition(":")
        owner: Any = import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        if isinstance(inspect.getattr_static(owner, name), classmethod):
            setattr(owner, name, staticmethod(self.timed(getattr(owner, name), where)))
        else:
            setattr(owner, name, self.timed(getattr(owner, name), where))

    def timed(self, function: Callable[..., Any], where: str) -> Callable[..., Any]:
        own, inside, clock = self.own, self._inside, time.perf_counter_ns
        within, around = self._within, self._around

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            inside.append(0)
            begun = clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent = clock() - begun
                own[where] += spent - inside.pop() - within
                inside[-1] += spent + around

        return run

    def _calibrate(self) -> None:
        empty = self.timed(lambda: None, "empty")
        within, around = [], []
        for _ in range(CALIBRATIONS):
            self.own.clear()
            begun = time.perf_counter_ns()
            for _ in range(CALLS):
                empty()
            spent = time.perf_counter_ns() - begun
            within.append(self.own["empty"] / CALLS)
            around.append((spent - self.own["empty"]) / CALLS)
        self._within, self._around = statistics.median(within), statistics.median(around)
        self.own.clear()


def merged(*groups: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The functions of each part in all *groups*."""
    parts: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for part, functions in group.items():
            parts[part] = parts.get(part, ()) + functions
    return parts


def main(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Microseconds of each kind of request, by part and by function."""
    with database():
        from django.db import connection

        import benchmarks.payments.views  # noqa: F401 before its functions are looked for

        caller = Caller()
        cases = {"atomic": caller.atomic, "first": caller.first, "replay": caller.replay}
        parts = merged(PARTS, OF_THE_DATABASE[connection.vendor], OF_REDIS if os.environ.get("REDIS_URL") else {})
        watch = Stopwatch()
        for functions in parts.values():
            for where in functions:
                watch.put(where)
        times: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        gc.disable()
        for number in range(WARM_UP + rounds):
            for case, run in cases.items():
                watch.own.clear()
                run()
                if number >= WARM_UP:
                    times[case].append(dict(watch.own))
            if number % 100 == 0:
                gc.collect()
        gc.enable()

    def figures(functions: Iterable[str]) -> dict[str, float]:
        return {
            case: statistics.median(sum(own.get(where, 0) for where in functions) for own in requests) / 1000
            for case, requests in times.items()
        }

    return {
        "parts": {part: figures(functions) for part, functions in parts.items()},
        "functions": {where: figures([where]) for functions in parts.values() for where in functions},
    }


if __name__ == "__main__":
    result = main(int(os.environ["ROUNDS"]))
    if sys.argv[1:] == ["--functions"]:  # to look for what could be cheaper
        for where, times in (result["parts"] | result["functions"]).items():
            print(f"{where:80}", *(f"{times[case]:8.1f}" for case in times))
    else:
        print(json.dumps(result["parts"]))
