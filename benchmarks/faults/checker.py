"""
Decide from a database and from the logs of its clients whether the law held.

It shares no code with those who make the load: what it knows of them is the form of their logs. A log is a file of JSON
lines. Each is an attempt: its `key`, the `status` of its answer (None where no answer came), the `digest` of the
answer's body (SHA-256, hexadecimal), the `effect` that the body names (the payment's number), the refusal's `code`. A
line with `"expired": true` notes that the key's record was made to expire, so that its next request is a new one. A
line with `"failed over": true` has no key: a standby has taken over, which may not have what was answered before (`at`
an earlier time). That may be lost, but whole: effect and record alike.

A view in phases charges at a gateway, too, and ships: its answers also name the `charge` and the `shipment`. A gateway
is a folder with a file for each charge, of two lines: the key, and the charge's number. A shipment is a payment with
"/shipment" behind its key.

    python -m benchmarks.faults.checker DATABASE_URL LOG...
"""

import hashlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

EFFECTS = "SELECT id, reference FROM app_payment"
RECORDS = "SELECT {key}, status, body FROM django_idempotency_record".format  # `key` is a word of MariaDB's

READ_ONLY = "25006"  # PostgreSQL's word of a standby that was asked to write: nothing was done, so it is no 500
CLAIM = 0  # the status of a record that is a claim alone
# Statuses that a client may see. 400 is the handler's own refusal, or of a body that was cut off; 411 of one without a
# length.
ALLOWED = {201, 400, 409, 411, 500, 503}

SHIPMENT = "/shipment"

MORE_EFFECTS = "more than one effect"
MORE_CHARGES = "more than one charge"
MORE_ANSWERS = "more than one answer"
NO_EFFECT = "an answer without its effect"
NO_RECORD = "an effect without its record"
NO_WORK = "a record without its effect"
NOT_THE_RECORD = "an answer that is not the record's"
LEFT = "a claim left behind"
UNANSWERED = "no final answer"
UNEXPECTED = "an answer that nobody promised"
DIFFERENT = "rows that another node does not have"

CATCHES_UP = 20.0  # seconds in which a node must have what the others have


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """
    What a database holds: the effects as (number, key), the records as (key, status, digest of the body). What a
    gateway holds: the charges as (number, key).
    """

    effects: list[tuple[int, str]]
    records: list[tuple[str, int, str]]
    charges: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was looked at, and what was wrong: kinds of violations, each with the keys and words for it."""

    keys: int = 0
    attempts: int = 0
    lost: int = 0  # attempts without an answer
    lost_whole: int = 0  # answers whose effect and record a failover has lost
    statuses: Counter[int] = field(default_factory=Counter)
    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def count(self) -> int:
        return sum(map(len, self.violations.values()))

    def __str__(self) -> str:
        lines = [f"{self.keys} keys, {self.attempts} attempts, {self.lost} without an answer, {dict(self.statuses)}"]
        lines += [f"{kind}: {len(each)}, as {each[0]}" for kind, each in sorted(self.violations.items())]
        return "\n".join(lines)


def judge(log: Iterable[dict[str, Any]], contents: Contents) -> Verdict:
    """Each key of *log* against what the database holds of it."""
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    failovers = []
    for line in log:
        if "failed over" in line:
            failovers.append(line["at"])
        else:
            attempts[line["key"]].append(line)
    effects: dict[str, list[int]] = defaultdict(list)
    for number, key in contents.effects:
        effects[key].append(number)
    charges: dict[str, list[str]] = defaultdict(list)
    for charge, key in contents.charges:
        charges[key].append(charge)
    records: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for key, status, digest in contents.records:
        records[key].append((status, digest))

    verdict = Verdict(keys=len(attempts))
    for key, lines in attempts.items():
        answered = [line for line in lines if not line.get("expired")]
        verdict.attempts += len(answered)
        verdict.lost += sum(line["status"] is None for line in answered)
        verdict.statuses.update(line["status"] for line in answered if line["status"] is not None)
        lost = [line for line in answered if is_lost(line, effects[key], failovers)]
        verdict.lost_whole += len(lost)
        found = [*judge_lost(lost, records[key], failovers)]
        found += judge_key(
            [line for line in lines if line not in lost], effects[key], records[key], answered=bool(lost)
        )
        found += judge_phases(lines, effects[f"{key}{SHIPMENT}"], charges[key])
        for kind, words in found:
            verdict.violations[kind].append(f"{key}: {words}")
    return verdict


def is_lost(line: dict[str, Any], effects: list[int], failovers: list[float]) -> bool:
    """Is it an answer whose effect is not there, and may that be because of a failover?"""
    return line["status"] == 201 and line["effect"] not in effects and any(line["at"] < at for at in failovers)


def judge_lost(
    lost: list[dict[str, Any]], records: list[tuple[int, str]], failovers: list[float]
) -> Iterator[tuple[str, str]]:
    """What is wrong with the answers to one key that a failover has lost."""
    digests = {line["digest"] for line in lost}
    if kept := digests & {digest for _, digest in records}:
        yield NO_WORK, f"lost answers, of which {len(kept)} have a record"
    if len(digests) > len(failovers):
        yield MORE_ANSWERS, f"{len(digests)} bodies before {len(failovers)} failovers"


def judge_key(
    lines: list[dict[str, Any]], effects: list[int], records: list[tuple[int, str]], *, answered: bool = False
) -> Iterator[tuple[str, str]]:
    """What is wrong with one key, as kinds and words. It may have been *answered* by what is not in *lines*."""
    lives = 1 + sum(bool(line.get("expired")) for line in lines)  # each record that expires makes the key a new one
    attempts = [line for line in lines if not line.get("expired")]
    answers = [line for line in attempts if line["status"] == 201]
    digests = {line["digest"] for line in answers}

    if len(effects) > lives:
        yield MORE_EFFECTS, f"payments {effects}"
    if len(digests) > lives:
        yield MORE_ANSWERS, f"{len(digests)} bodies"
    if missing := {line["effect"] for line in answers} - set(effects):
        yield NO_EFFECT, f"answers name payments {sorted(missing, key=str)}, there are {effects}"
    if CLAIM in (status for status, _ in records):
        yield LEFT, f"records {records}"
    kept = [digest for status, digest in records if status != CLAIM]
    if effects and not kept:
        yield NO_RECORD, f"payments {effects}, records {records}"
    if kept and not effects:
        yield NO_WORK, f"records {records}"
    if answers and kept and not digests & set(kept):
        yield NOT_THE_RECORD, f"{sorted(digests)}, the record has {kept}"
    if not answers and not answered:
        last = attempts[-1] if attempts else {}
        yield UNANSWERED, f"{len(attempts)} attempts, the last {last.get('status')} {last.get('code')}"
    for line in attempts:
        if line["status"] is not None and line["status"] not in ALLOWED:
            yield UNEXPECTED, f"{line['status']} {line.get('code')}"
        if line["status"] == 500 and line.get("code") == READ_ONLY:
            yield UNEXPECTED, "500 from a server that is read-only"


def judge_phases(lines: list[dict[str, Any]], shipments: list[int], charges: list[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a key's shipments and charges. The gateway's key is the same in each life of a key."""
    lives = 1 + sum(bool(line.get("expired")) for line in lines)
    if len(charges) > 1:
        yield MORE_CHARGES, f"charges {charges}"
    if len(shipments) > lives:
        yield MORE_EFFECTS, f"shipments {shipments}"
    named = {line[name] for line in lines for name in ("charge", "shipment") if name in line}
    if missing := named - {*charges, *shipments}:
        yield NO_EFFECT, f"answers name {sorted(missing, key=str)}, there are {charges} and {shipments}"


# --- reading ---


def lines_of(*paths: Path) -> Iterator[dict[str, Any]]:
    """The lines of logs. A last line without its end is of a client that was killed while it wrote."""
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def contents_of(url: str, gateway: Path | None = None) -> Contents:
    """What the database at *url* holds, asked for without Django, and what the *gateway* does."""
    with cursor_of(url) as cursor:
        cursor.execute(EFFECTS)
        effects = [(int(number), key) for number, key in cursor.fetchall()]
        cursor.execute(RECORDS(key="`key`" if url.startswith("mysql") else '"key"'))
        records = [(key, int(status), hashlib.sha256(bytes(body)).hexdigest()) for key, status, body in cursor]
    charges = [] if gateway is None else [*charges_at(gateway)]
    return Contents(effects=effects, records=records, charges=charges)


def charges_at(gateway: Path) -> Iterator[tuple[str, str]]:
    for file in gateway.glob("[!.]*"):
        key, number = file.read_text().split("\n")
        yield number, key


@contextmanager
def cursor_of(url: str) -> Iterator[Any]:
    parts = urlsplit(url)
    name = parts.path.lstrip("/")
    if url.startswith("sqlite"):
        import sqlite3

        with closing(sqlite3.connect(f"/{name}")) as connection:
            yield connection.cursor()
    elif url.startswith("mysql"):
        import pymysql

        with (
            pymysql.connect(
                host=parts.hostname, port=parts.port or 3306, database=name,
                user=unquote(parts.username or "root"), password=unquote(parts.password or ""),
            ) as connection,
            connection.cursor() as cursor,
        ):  # fmt: skip
            yield cursor
    else:
        import psycopg

        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            yield cursor


def check(url: str, *logs: Path, gateway: Path | None = None, others: Iterable[str] = ()) -> Verdict:
    """Judge what the database at *url* holds; the *others* are nodes that must hold the same in the end."""
    verdict = judge(lines_of(*logs), contents_of(url, gateway))
    for other in others:
        for words in differences(url, other):
            verdict.violations[DIFFERENT].append(words)
    return verdict


def differences(url: str, other: str) -> list[str]:
    """Effects and records of one node alone, when both have had the time to catch up."""
    deadline = time.monotonic() + CATCHES_UP
    while True:
        here, there = contents_of(url), contents_of(other)
        rows = {*here.effects, *here.records} ^ {*there.effects, *there.records}
        if not rows or time.monotonic() > deadline:
            return [f"{row} at {url} or {other}" for row in sorted(rows, key=str)]
        time.sleep(0.1)


if __name__ == "__main__":
    found = check(sys.argv[1], *map(Path, sys.argv[2:]))
    sys.stdout.write(f"{found}\n")
    sys.exit(bool(found.count))
