"""The faults as a page of the manual: what is promised, and what was seen."""

import datetime
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import django

from benchmarks.faults.catalogue import ALL, FAULTS, Fault
from benchmarks.faults.clusters.catalogue import CLUSTER_FAULTS, CLUSTERS
from benchmarks.page import bullets, paragraph, table

TITLES = {
    "postgresql": "PostgreSQL", "mariadb": "MariaDB", "mysql": "MySQL", "sqlite": "SQLite",
    **{kind: cluster.title for kind, cluster in CLUSTERS.items()},
}  # fmt: skip


@dataclass(kw_only=True)
class Results:
    """All that was seen: a dict from `run` for each fault and kind of database, and one from `kills` for each kind."""

    faults: list[dict[str, Any]] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # kinds of databases, with the reason

    def of(self, fault: Fault, kind: str) -> dict[str, Any] | None:
        return next((line for line in self.faults if (line["fault"], line["kind"]) == (fault.name, kind)), None)

    def violations(self) -> int:
        return sum(sum(line.get("violations", {}).values()) for line in [*self.faults, *self.kills])

    def missed(self) -> list[str]:
        """Planted bugs that the checker did not see."""
        missed = []
        for fault in (*FAULTS, *CLUSTER_FAULTS):
            for kind in fault.kinds:
                line = self.of(fault, kind)
                if line and "planted" in line and not set(line["planted"]["violations"]) & set(fault.caught):
                    missed.append(f"{TITLES[kind]}: {fault.name}: {fault.bug_on(kind)}")
        for line in self.kills:
            for bug, run in line.get("planted", {}).items():
                if not run["violations"]:
                    missed.append(f"{TITLES[line['kind']]}: kills: {bug}")
        return missed


def page(results: Results) -> str:
    kinds = [kind for kind in ALL if any(kind == line["kind"] for line in [*results.faults, *results.kills])]
    parts = [
        "# What was broken on purpose",
        "<!-- written by `make faults` -->",
        *summary(results),
        "## Faults under load",
        *faults(results, kinds),
        "## On several nodes",
        *on_nodes(results),
        "## Kills by the thousand",
        *kills(results),
        "## Planted bugs",
        *planted(results, kinds),
        "## What is not tested",
        *left_out(results, kinds),
        "## How it is done",
        *method(results),
    ]
    return "\n\n".join(parts) + "\n"


def summary(results: Results) -> list[str]:
    violations = results.violations()
    made = sum(line.get("faults", 0) for line in results.faults)
    killed = sum(line["kills"] for line in results.kills)
    count = f"{violations:,} violations" if violations else "No violation"
    return [
        paragraph(
            f"""The suite breaks what a payment depends on while clients pay: the network, the workers, the database
            under them. Afterwards a checker decides from the database and from the clients' logs alone. **{count}** in
            {made:,} faults under load and {killed:,} kills. [The law](law.md) says what is promised."""
        ),
        "For each key, whatever was broken, the checker requires:",
        bullets(
            "one effect, and no more;",
            "one answer: every 2xx that any client got for it has the same bytes, and they are the record's;",
            "no answer without its effect: the payment that the answer names is in the table;",
            "no effect without its record, no record without its effect, no claim left behind;",
            "an answer in the end, for the last retry of every client.",
        ),
    ]


def faults(results: Results, kinds: list[str]) -> list[str]:
    rows = []
    for fault in FAULTS:
        cells = [cell(fault, kind, results.of(fault, kind)) for kind in kinds]
        rows.append([fault.name, fault.promise, *cells])
    return [
        paragraph(
            """Each cell shows how often the fault was made / the keys that were paid meanwhile, and the attempts that
            got no answer, a 500 or a 503; a violation would stand there in bold. The checker decides
            by the list above, and requires that no client got a status besides 201, 400, 409, 411,
            500 and 503."""
        ),
        table(["fault", "promised, beside one effect and one answer", *(TITLES[kind] for kind in kinds)], rows),
    ]


def on_nodes(results: Results) -> list[str]:
    rows = [
        [TITLES[kind], fault.name, fault.promise, cell(fault, kind, results.of(fault, kind))]
        for fault in CLUSTER_FAULTS
        for kind in fault.kinds
    ]
    return [
        paragraph(
            """Clients send the duplicates of one key to several nodes, or to the one that takes over. Afterwards the
            nodes that are left must hold the same rows. *Lost whole* are answers from before an asynchronous failover
            whose effect and record are both gone; half a loss would be a violation. What to set, and what to do, is in
            [Fail over to a standby](../how-to/fail-over.md)."""
        ),
        table(["cluster", "fault", "promised, beside one effect and one answer", "seen"], rows),
        bullets(*(f"{cluster.title}: {cluster.note}" for cluster in CLUSTERS.values())),
    ]


def cell(fault: Fault, kind: str, line: dict[str, Any] | None) -> str:
    if kind not in fault.kinds:
        return fault.elsewhere
    if line is None:
        return "not run"
    if "left out" in line:
        return "left out"
    statuses = {int(status): count for status, count in line["statuses"].items()}
    seen = [f"{line['faults']:,} / {line['keys']:,}"]
    words = {
        "lost whole": line.get("lost whole", 0),
        "no answer": line["lost"],
        "500": statuses.get(500, 0),
        "503": statuses.get(503, 0),
    }
    seen += [f"{word} ({count:,})" for word, count in words.items() if count]
    if line["violations"]:
        seen.append(f"**{named(line['violations'])}**")
    return ", ".join(seen)


def named(violations: dict[str, int]) -> str:
    return ", ".join(f"{kind} ({count:,})" for kind, count in violations.items())


def kills(results: Results) -> list[str]:
    rows = []
    for line in results.kills:
        rows.append(
            [
                line["version"],
                "phased" if line.get("phased") else "atomic",
                f"{line['kills']:,}",
                f"{line['kills'] - line['instants']:,}",
                f"{line['instants']:,}",
                f"{line['keys']:,}",
                f"{line['attempts']:,}",
                f"{line['committed']:,}",
                f"{line['kills'] / line['seconds']:.0f}",
                f"**{sum(line['violations'].values()):,}**",
            ]
        )
    head = [
        "database", "mode", "kills", "at a statement", "at an instant", "keys", "answers to retries and survivors",
        "retries that found the work done", "kills per second", "violations",
    ]  # fmt: skip
    return [
        paragraph(
            """Forked processes make one request each, and die by SIGKILL on the way: half of them before or after
            one of their statements, the others at a random instant. Some requests are refusals, some
            run against an expired record, some beside a rival with the same key, some keys are killed
            again and again. The processes use each way through the package equally often: routines,
            plain statements, BEGIN and COMMIT by themselves, `ATOMIC_REQUESTS`. In phased mode the request is an
            order, a charge at a gateway that knows keys, and a shipment, under a lease of 0.3 s, at several
            isolation levels; the checker wants one of each, and that they are those in the answer."""
        ),
        table(head, rows),
    ]


def planted(results: Results, kinds: list[str]) -> list[str]:
    rows = []
    for fault in FAULTS:
        reports = {kind: found_by_checker(results.of(fault, kind)) for kind in kinds}
        shown = [each for each in fault.caught if any(each in (found or {}) for found in reports.values())]
        cells = []
        for kind, found in reports.items():
            bug = f"({fault.bug_on(kind)}) " if fault.bug_on(kind) != fault.bug and found else ""
            counts = ", ".join(f"{(found or {}).get(each, 0):,}" for each in shown)
            missed = found is not None and not set(found) & set(fault.caught)
            cells.append("**not seen**" if missed else f"{bug}{counts}" if found else "")
        rows.append([fault.name, fault.bug, ", ".join(shown), *cells])
    bugs: dict[str, dict[str, str]] = {}
    for line in results.kills:
        for bug, run in line.get("planted", {}).items():
            bugs.setdefault(bug, {})[line["kind"]] = named(run["violations"]) or "**not seen**"
    rows += [["kills", bug, "", *(cells.get(kind, "") for kind in kinds)] for bug, cells in bugs.items()]
    return [
        paragraph(
            """A checker that finds nothing may be blind. So each fault is made again with a bug planted of the kind
            that it reveals. The checker reported:"""
        ),
        table(["fault", "planted", "reported", *(TITLES[kind] for kind in kinds)], rows),
        *planted_on_nodes(results),
        bullets(
            """*forgets*: keeps duplicates apart, but stores no answer. *record outside the transaction*: written after
            COMMIT. *early commit*: the claim is committed before the handler runs. *short lease*: such a claim is taken
            over when it is older than 0.3 s. *no claim*: looks for a record, and claims nothing.""",
            """*session lock*: claims by a lock of PostgreSQL's session. *own clock*: records expire by the process's
            clock. *answers anyway*: what the handler had answered goes out although the transaction failed; *swallows*
            catches the handler's database errors too. *fails open*: where the store does not answer, the handler runs
            without it. *takes a part for the whole*: a body that was cut off is the body. *takes it for empty*: a
            body without a length is not read before the handler reads it.""",
            """In phases: *a key for each try* gives the gateway another key at each attempt. *recovery point outside
            the transaction*: written after the COMMIT of its phase.""",
        ),
    ]


def planted_on_nodes(results: Results) -> list[str]:
    rows = []
    for fault in CLUSTER_FAULTS:
        for kind in fault.kinds:
            found = found_by_checker(results.of(fault, kind))
            if found is not None:
                caught = {each: count for each, count in found.items() if each in fault.caught}
                rows.append([TITLES[kind], fault.name, fault.bug, named(caught) or "**not seen**"])
    return [table(["cluster", "fault", "planted", "reported"], rows)] if rows else []


def found_by_checker(line: dict[str, Any] | None) -> dict[str, int] | None:
    """What was reported with the planted bug, or None if none was planted."""
    return line["planted"]["violations"] if line and "planted" in line else None


def left_out(results: Results, kinds: list[str]) -> list[str]:
    reasons = [f"{TITLES[kind]}: {reason}." for kind, reason in results.left_out.items()]
    missing = [line for line in results.faults if "left out" in line]
    reasons += [f"{TITLES[line['kind']]}, {line['fault']}: {line['left out']}." for line in missing]
    reasons += [
        """A machine that loses power, and a disk that lies about `fsync`: processes are killed, not machines.""",
        """A host that vanishes without closing its connections: the servers' own timeouts decide then
        ([a process that is killed](law.md#a-process-that-is-killed)).""",
        """SQLite has no clock but the process's: there the clock jumps by six hours, less than a record's life.""",
    ]
    return [bullets(*reasons)]


def method(results: Results) -> list[str]:
    versions = dict.fromkeys(line["version"] for line in [*results.faults, *results.kills])
    return [
        paragraph(
            """The project runs under gunicorn, on database servers that the suite starts for itself. Six clients pay
            with keys, three in ten of them sent by two clients at once, and retry until there is an
            answer. The checker shares no code with them, and reads the tables with plain drivers. `fsync`
            is off on PostgreSQL: a process that is killed loses nothing that it has written."""
        ),
        paragraph(
            f"""{datetime.datetime.now(tz=datetime.UTC).date()}, Python {platform.python_version()}, Django
            {django.__version__}, {", ".join(versions)}. `make faults` makes this page again, `make faults KILLS=10000`
            with so many kills on each database."""
        ),
    ]


def lines(results: Results) -> Iterable[str]:
    """The last lines that the terminal shows."""
    yield f"{results.violations()} violations"
    for missed in results.missed():
        yield f"a planted bug was not seen: {missed}"
