"""
Processes that take decisions and count them: `python -m tests.operations.counting DATABASE CHILDREN REQUESTS`.

The parent counts one decision and keeps it in memory. Each child, a fork, sends that many requests, each of them twice,
writes its counts after each, and ends as a server's worker does.
"""

import logging
import os
import sys

from tests.lab.origin import answer_of
from tests.proof.child import prepare

NEVER = 1e9  # seconds


def totals(**filters: object) -> dict[str, int]:
    """What the table of counts holds, without the zeros."""
    from django.db.models import Sum

    from django_idempotency.models import DecisionCount
    from django_idempotency.operations.tally import COLUMNS

    sums = DecisionCount.objects.filter(**filters).aggregate(**{name: Sum(name) for name in COLUMNS})
    return {name: number for name, number in sums.items() if number}


def main(database: str, children: int, requests: int) -> None:
    prepare(database)
    logging.disable(logging.WARNING)  # of counts that cannot be written
    from django.conf import settings
    from django.core.mail.backends import locmem
    from django.db import connections

    from django_idempotency import conf
    from django_idempotency.operations import counts as statistics

    settings.ROOT_URLCONF = "tests.app.urls"
    settings.IDEMPOTENCY = {"COUNTS": True}
    conf.counts.cache_clear()
    locmem.EmailBackend()  # sets `mail.outbox`, as a test run does

    def send(key: str) -> None:
        answer = answer_of("/plain/", {"Idempotency-Key": key}, {"amount": 1})
        assert answer["status"] == 201, answer

    statistics.counter._due = float("inf")
    send("parent")
    connections.close_all()  # a fork must not share its parent's connection
    processes = []
    for child in range(children):
        if pid := os.fork():
            processes.append(pid)
            continue
        assert not statistics.counter.tally.rows
        statistics.INTERVAL = 0.0
        for number in range(requests):
            send(f"{child}-{number}")
            send(f"{child}-{number}")
        statistics.counter._due = float("inf")
        send(f"{child}-0")  # written at the exit
        sys.exit()
    failed = [pid for pid in processes if os.waitpid(pid, 0)[1]]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
