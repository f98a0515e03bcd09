"""The page of faults: what was seen stands there, and what must not be makes the run fail."""

from typing import Any

import pytest

from benchmarks.faults.catalogue import ALL, FAULTS
from benchmarks.faults.checker import MORE_EFFECTS
from benchmarks.faults.clusters.catalogue import CLUSTER_FAULTS, CLUSTERS
from benchmarks.faults.page import Results, page

FAULT = FAULTS[0]


def line(violations: dict[str, int], planted: dict[str, int]) -> dict[str, Any]:
    seen = {"faults": 3, "keys": 1234, "attempts": 2000, "lost": 7, "statuses": {"201": 1, "503": 2}}
    return {
        "fault": FAULT.name,
        "kind": "sqlite",
        "version": "SQLite 3",
        **seen,
        "violations": violations,
        "planted": {**seen, "violations": planted},
    }


def test_a_run_without_a_violation():
    """A cell tells what was made, what clients met, and that the law held; the planted bug's cell what was caught."""
    results = Results(faults=[line({}, {FAULT.caught[0]: 5})])
    row = f"| {FAULT.name} | {FAULT.promise} | 3 / 1,234, no answer (7), 503 (2) |"

    assert row in page(results)
    assert f"| {FAULT.name} | {FAULT.bug} | {FAULT.caught[0]} | 5 |" in page(results)
    assert "**No violation** in 3 faults" in page(results)
    assert results.violations() == 0
    assert results.missed() == []


def test_a_violation_shows():
    """It stands in the first paragraph and in its cell."""
    results = Results(faults=[line({MORE_EFFECTS: 2}, {FAULT.caught[0]: 5})])

    assert results.violations() == 2
    assert "**2 violations** in 3 faults" in page(results)
    assert f"**{MORE_EFFECTS} (2)**" in page(results)


@pytest.mark.parametrize("planted", [{}, {"no final answer": 1}], ids=["nothing", "another kind"])
def test_a_planted_bug_that_was_not_seen_shows(planted):
    """Nothing reported, or something else than the bug does: the checker was blind for this fault."""
    results = Results(faults=[line({}, planted)])

    assert results.missed() == [f"SQLite: {FAULT.name}: {FAULT.bug}"]
    assert "**not seen**" in page(results)


def test_a_fault_on_several_nodes():
    """It has a row with what it lost whole, and counts as the others do."""
    fault = CLUSTER_FAULTS[0]
    kind = fault.kinds[0]
    seen = line({}, {}) | {"fault": fault.name, "kind": kind, "lost whole": 4}
    results = Results(faults=[seen])
    title = CLUSTERS[kind].title

    assert f"| {title} | {fault.name} | {fault.promise} | 3 / 1,234, lost whole (4), no answer (7), 503 (2) |" in page(
        results
    )
    assert f"| {title} | {fault.name} | {fault.bug} | **not seen** |" in page(results)
    assert results.missed() == [f"{title}: {fault.name}: {fault.bug}"]


def test_a_cluster_that_is_not_installed():
    """It is left out, with the reason."""
    kind = CLUSTER_FAULTS[0].kinds[0]

    assert f"- {CLUSTERS[kind].title}: no program." in page(Results(left_out={kind: "no program"}))


def test_each_fault_says_where_it_is_made_and_why_not_elsewhere():
    """No cell of the table is empty without a reason, and no two faults have one name."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert [fault.name for fault in FAULTS if fault.kinds != ALL and not fault.elsewhere] == []
    made = [(kind, fault.name) for fault in CLUSTER_FAULTS for kind in fault.kinds]
    assert len(set(made)) == len(made)
    assert {kind for kind, _ in made} == set(CLUSTERS)
