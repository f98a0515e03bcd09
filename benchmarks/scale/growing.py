"""The figures of the page "Growing", from what `large` has kept: `python -m benchmarks.scale.growing`."""

import json
import math
from pathlib import Path

from benchmarks.scale.large import KEPT
from benchmarks.scale.page import DAY, Result, _bytes, _speed, _table, _text

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "growing.md"
BEGIN = "<!-- figures: `python -m benchmarks.scale.growing` writes them from benchmarks/scale/large.json -->\n"
END = "<!-- end of figures -->\n"
BILLION = 1_000_000_000
INDEXES = {"digest": "`digest`", "key": "`key`", "expires": "`expires_at`"}


def write() -> None:
    """Put the figures into their place on the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(
        before + BEGIN + "\n" + figures(json.loads(KEPT.read_text())) + "\n\n" + END + rest.partition(END)[2]
    )


def figures(result: Result, target: int = BILLION) -> str:
    """What was measured, and what follows from it for *target* records, as Markdown."""
    size, sizes = result["size"], result["sizes"]
    each = {part: found / size for part, found in sizes.items()}  # bytes per record
    each["rows"] *= result["slack"] / result["slack of a fill"]  # as requests leave pages, not a bulk load
    table = [["rows", _bytes(sizes["rows"]), _bytes(each["rows"] * target)]]
    for part, title in INDEXES.items():
        shape = result["indexes"][part]
        grown = levels(shape, target / size)
        table.append(
            [
                f"index of {title}",
                f"{_bytes(sizes[part])}, {shape['levels'] + 1} levels",
                f"{_bytes(each[part] * target)}, {grown + 1} levels",
            ]
        )
    whole = each["rows"] + sum(each[part] for part in INDEXES)
    table += [
        ["**together**", _bytes(sum(sizes.values())), _bytes(whole * target)],
        [
            "memory for the indexes of random values",
            _bytes(sizes["digest"] + sizes["key"]),
            _bytes((each["digest"] + each["key"]) * target),
        ],
    ]
    return "\n\n".join(
        [
            _table(["", f"{size:,} records, measured", f"{target:,} records, worked out"], table),
            *map(_text, (_conditions(result, whole), _reads(result), _log(result, target), _purge(result, target))),
        ]
    )


def _conditions(result: Result, whole: float) -> str:
    busy = """The machine was busy with other work: a ratio compares requests of one round, and of the speeds only the
        purge's is here."""
    return f"""{result["server"]}, {result["date"]}, with the records of the page [Scale](scale.md), which has the
        speeds of smaller tables. What is worked out takes {whole:,.0f} bytes per record: rows as requests leave them
        ({result["slack"]:.2f} bytes of pages for each byte of a row), and indexes as they are here.
        {busy if result["busy"] else ""} {result.get("note", "")}"""


def _reads(result: Result) -> str:
    by_digest, by_key = result["look-ups"]["digest"], result["look-ups"]["key"]
    ratios = result["warm"]
    plan = by_digest["plan"].partition(" using")[0]
    return f"""**A look-up reads {by_digest["pages"]} pages** by its digest ({plan}), a search for a key
        {by_key["pages"]}.
        A first execution took {ratios["first"]:.2f} times as long as the bare view, a replay of any
        record {ratios["replay"]:.2f} times."""


def _log(result: Result, target: int) -> str:
    per_second, log = target / DAY, result["log"]
    return f"""**{target:,} records are one day's at {per_second:,.0f} first executions per second**, or
        {target / DAY / 1000:.1f} days' at 1,000. A first execution writes {log["bytes"]:,.0f} bytes of log (WAL) beside
        the handler's own, {log["pages"]:.1f} whole pages among them. All of them together are
        {_bytes(log["bytes"] * target)}, at that rate {_bytes(log["bytes"] * per_second)} per second."""


def _purge(result: Result, target: int) -> str:
    speed = _speed([result["purge"]])
    machine = "busy" if result["busy"] else "idle"
    return f"""**Purge**: {result["purge"]["rows"]:,} expired records beside the {result["size"]:,} live ones went at
        {speed:,.0f} per second on the {machine} machine. {target:,} take {target / speed / 3600:,.1f} hours of that.
        Several purges share the work, and each shard has its own."""


def levels(shape: dict[str, int], factor: float) -> int:
    """Levels above the leaves of an index of this *shape* that has *factor* times as many leaves."""
    children = (shape["leaves"] + shape["inner"] - 1) / shape["inner"]  # of an inner page, on average
    return max(shape["levels"], math.ceil(math.log(shape["leaves"] * factor, children)))


if __name__ == "__main__":
    write()
