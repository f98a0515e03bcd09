"""What phased mode costs in statements, BEGIN, COMMIT, SAVEPOINT and RELEASE not counted."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_idempotency.probes import UNSURE
from tests.app.serving import VENDOR, is_replay, plain, post
from tests.app.views import answer
from tests.edges.test_statements import OF_A_TRANSACTION

pytestmark = pytest.mark.django_db(transaction=True)

PHASES = 3


@pytest.fixture
def ours(browser, serve):
    """The package's own statements of a request in phases that write nothing; one of them fails once if asked to."""
    fails = []

    def fail():
        if fails:
            raise fails.pop()

    probes = {}

    def view(request):
        for number in range(PHASES):
            work = fail if number == 1 else lambda: None
            request.idempotency.phase(f"phase {number}", work, probe=probes.get(number))
        return answer(request, {})

    serve(plain(view, mode="phased"))
    post(browser, key="warms up")

    def ours(*, fail=None, probe=None):
        if fail is not None:
            fails.append(fail)
        probes[0] = probe
        with CaptureQueriesContext(connection) as captured:
            ours.response = post(browser)
        statements = [query["sql"].strip() for query in captured.captured_queries]
        return [sql for sql in statements if "idempotency" in sql and not OF_A_TRANSACTION.match(sql)]

    return ours


def test_a_run_costs_a_look_up_the_claim_one_statement_a_phase_and_the_record(ours):
    """Claim and record are two statements each, in one transaction: the run has a row beside the record's."""
    of_phase = 2 if VENDOR == "sqlite" else 1  # there a phase becomes the writer first

    assert len(ours()) == 1 + 2 + PHASES * of_phase + 2
    assert ours.response.status_code == 201


def test_a_phase_with_a_probe_costs_one_more(ours):
    """It holds its row while it calls the other system; on SQLite every phase does."""
    of_phase = 2 if VENDOR == "sqlite" else 1

    assert len(ours(probe=UNSURE)) == 1 + 2 + 2 + (PHASES - 1) * of_phase + 2
    assert ours.response.status_code == 201


def test_a_replay_costs_one_statement(ours):
    """As in atomic mode."""
    ours()

    assert len(ours()) == 1
    assert is_replay(ours.response)


def test_a_retry_resumes_for_as_many(ours):
    """The look-up, two statements to take the run over, and one more that waits for no row; then what is left."""
    of_phase, take_over = (2, 2) if VENDOR == "sqlite" else (1, 3)
    failed = ours(fail=TimeoutError())
    retried = ours()

    assert len(failed) == 1 + 2 + of_phase + (VENDOR == "sqlite") + 1  # its end gives the lease back
    assert len(retried) == 1 + take_over + (PHASES - 1) * of_phase + 2
