"""
Phased mode under SIGKILL, before and after each statement, each COMMIT and the gateway's call; and under SIGSTOP, past
the lease.
"""

import json
import time

import pytest
from django.db import transaction

from django_idempotency.exceptions import RequestInProgress
from tests.proof.lab import PATIENCE, SCALE, Request, amounts, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill]

LEVELS = ("", "repeatable read", "serializable")


class Payments:
    """Makes requests in three phases, and checks what is left of them."""

    def __init__(self, lab, token, folder):
        self.lab, self.token, self.folder = lab, token, folder
        self.retrier = lab.child().connect()
        self.unsettled = 0  # runs that a test has left so

    def request(self, key, path="/phased/", **more):
        gateway = self.folder / key
        gateway.mkdir()
        return Request(key=key, token=self.token, path=path, more={"gateway": str(gateway), **more})

    def charges(self, key):
        return len(list((self.folder / key).glob("[!.]*")))

    def violations(self, request):
        """What is wrong when a process was killed that had *request*: its retries make one effect and one answer."""
        end_leases()
        first = self.retrier.ask_until_final(request)
        second = self.retrier.ask_until_final(request)
        found = []
        if first.status != 201:
            found.append(f"the retry got {first.status} {first.code} {first.error}")
        if not second.replayed or (second.status, second.body) != (first.status, first.body):
            found.append(f"a second retry got {second} after {first}")
        if (seen := [amounts(request.key), amounts(f"{request.key}/shipment")]) != [[10], [10]]:
            found.append(f"orders and shipments {seen}")
        if (charges := self.charges(request.key)) != 1:
            found.append(f"{charges} charges")
        if statuses(request.key) != [201] or runs() != self.unsettled:
            found.append(f"the store holds {statuses(request.key)} and {runs()} runs")
        return found


@pytest.fixture
def payments(lab, token, tmp_path):
    return Payments(lab, token, tmp_path)


def end_leases():
    """As if time had passed."""
    from django_idempotency.models import DatabaseNow, PhasedRun

    PhasedRun.objects.update(ends_at=DatabaseNow())


def runs():
    from django_idempotency.models import PhasedRun

    return PhasedRun.objects.count()


def points_of(payments, path="/phased/"):
    child = payments.lab.child().connect()
    child.send(payments.request("dry", path), halts=True)
    points = list(child.points())
    child.close()
    return points


def kill_at(payments, request, number):
    """Let a new process work on *request* until its point *number*, and kill it. Returns False if it has fewer."""
    child = payments.lab.child().connect()
    child.send(request, halts=True)
    try:
        child.halt_at(number)
    except AssertionError:
        child.close()
        return False
    child.kill()
    return True


def test_a_run_that_is_killed_at_any_point_takes_effect_once(payments, count, vendor):
    """One order, one charge, one shipment, one answer: wherever it was killed."""
    points = points_of(payments)
    violations = []
    for number, point in enumerate(points):
        request = payments.request(f"kill-{number}")
        assert kill_at(payments, request, number)
        violations += [f"killed {number} {point}: {each}" for each in payments.violations(request)]
    count(f"{vendor}, in phases", points=len(points), kills=len(points), violations=len(violations))

    assert violations == []
    assert {"before the gateway", "after the gateway"} <= set(points)
    assert points.count("before COMMIT") == points.count("after COMMIT") >= 5  # claim, three phases, record


def test_a_retry_that_is_killed_too_is_resumed(payments, count, vendor):
    """Whatever the first attempt has left."""
    points = points_of(payments)
    violations, kills = [], 0
    for first in range(5, len(points), 13):
        for second in range(3, len(points), 11):
            request = payments.request(f"kill-{first}-{second}")
            assert kill_at(payments, request, first)
            end_leases()
            kills += 1 + kill_at(payments, request, second)
            violations += [f"killed at {points[first]}, {second}: {each}" for each in payments.violations(request)]
    count(f"{vendor}, in phases, twice", kills=kills, violations=len(violations))

    assert violations == []


def chosen(points, step=5):
    """Each *step*th of the points at which a process can be killed, and those around the gateway. At length, all."""
    gateway = points.index("before the gateway")
    step = step if SCALE == 1 else 1
    return sorted({*range(0, len(points), step), *range(gateway - 1, gateway + 3), len(points) - 1})


def test_the_resumer_finishes_what_was_killed(payments, count, vendor):
    """Without the client, once the claim was committed; a client that comes back gets the answer as a replay."""
    resumer = payments.lab.child().connect()
    points = points_of(payments)
    violations = []
    for number in chosen(points):
        request = payments.request(f"kill-{number}")
        assert kill_at(payments, request, number)
        end_leases()
        resumer.do("resume")
        resumer.result()
        is_claimed = number >= points.index("after COMMIT")
        if statuses(request.key) != ([201] if is_claimed else []):
            violations.append(f"killed {number} {points[number]}: the resumer has left {statuses(request.key)}")
        violations += [f"killed {number} {points[number]}: {each}" for each in payments.violations(request)]
    count(f"{vendor}, in phases, resumed", kills=len(chosen(points)), violations=len(violations))

    assert violations == []


def test_resumers_and_the_client_at_once_are_one_run(payments, count, vendor):
    """Whoever is first takes the run over; the others find it in progress, or its answer."""
    resumers = [payments.lab.child().connect() for _ in range(2)]
    points = points_of(payments)
    violations = []
    for number in chosen(points):
        request = payments.request(f"kill-{number}")
        assert kill_at(payments, request, number)
        end_leases()
        for resumer in resumers:
            resumer.do("resume")
        reply = payments.retrier.ask(request)
        for resumer in resumers:
            resumer.result()
        if (reply.status, reply.code) not in ((201, None), (409, "request-in-progress")):
            violations.append(f"killed {number} {points[number]}: the client got {reply}")
        violations += [f"killed {number} {points[number]}: {each}" for each in payments.violations(request)]
    count(f"{vendor}, in phases, all at once", kills=len(chosen(points)), violations=len(violations))

    assert violations == []


KEYLESS = ["/phased/probed/", "/phased/unsure/"]  # gateways that know no keys


@pytest.mark.parametrize("path", KEYLESS)
def test_a_run_that_is_killed_charges_once_without_a_key(payments, count, vendor, path):
    """A probe finds what was charged; where none can, the outcome is unsettled, and nothing is charged again."""
    points = points_of(payments, path)
    violations, kills = [], chosen(points, step=15)
    for number in kills:
        request = payments.request(f"kill-{number}", path)
        assert kill_at(payments, request, number)
        end_leases()
        reply = payments.retrier.ask_until_final(request)
        if reply.code == "outcome-unknown":
            payments.unsettled += 1
            found = ["two charges"] if payments.charges(request.key) > 1 else []
        else:
            found = payments.violations(request)
        violations += [f"killed {number} {points[number]}: {each}" for each in found]
    count(
        f"{vendor}, {path}",
        kills=len(chosen(points, step=15)),
        violations=len(violations),
        unsettled=payments.unsettled,
    )

    assert violations == []
    assert (payments.unsettled > 0) is (path == "/phased/unsure/")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("path", KEYLESS)
def test_a_process_that_is_frozen_where_it_cannot_charge_twice_keeps_its_run(payments, vendor, path, level):
    """It holds its row, so nobody asks the probe or frees the key while it may still charge; thawed, it goes on."""
    if vendor == "sqlite":
        pytest.skip("there a phase is the only writer")
    child = frozen_at(payments, "before the gateway", level, request := payments.request("frozen", path))
    end_leases()

    assert payments.retrier.ask(request).code == "request-in-progress"
    with pytest.raises(RequestInProgress), transaction.atomic():
        free(request.key)
    child.cont()
    assert child.finish().status == 201
    assert payments.violations(request) == []


def free(key):
    """As an operator does."""
    from django_idempotency.models import IdempotencyRecord
    from django_idempotency.stores import stores

    record = IdempotencyRecord.objects.get(key=key)
    stores["default"].free(None, bytes(record.digest), record.executed_at)


@pytest.mark.parametrize("level", LEVELS)
def test_many_at_once_are_one_run(payments, vendor, level):
    """Whoever is first runs; the others are told that it is in progress, and get its answer."""
    if vendor == "sqlite" and level:
        pytest.skip("there is one level")
    children = [payments.lab.child(isolation=level).connect() for _ in range(6)]
    for number in range(8):
        request = payments.request(f"race-{number}")
        for child in children:
            child.send(request)
        replies = [child.reply() for child in children]
        answers = {child.ask_until_final(request).body for child in children}

        assert {reply.status for reply in replies} <= {201, 409}, replies
        assert len(answers) == 1
        assert payments.violations(request) == []


def test_the_lease_of_a_killed_process_runs_out(payments):
    """Until then the key is in progress; then a retry resumes."""
    request = payments.request("dies", path="/phased/short/")
    child = payments.lab.child().connect()
    child.send(request, halts=True)
    child.halt_when("before the gateway")
    child.kill()
    since = time.monotonic()

    assert payments.retrier.ask(request).code == "request-in-progress"
    assert payments.retrier.ask_until_final(request).status == 201
    assert 0.5 < time.monotonic() - since < PATIENCE
    assert payments.violations(request) == []


BETWEEN = "between two phases"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("point", [BETWEEN, "before the gateway", "after the gateway", "before phase", "before record"])
def test_a_frozen_process_commits_nothing_when_it_is_thawed(payments, vendor, point, level):
    """Stopped for longer than its lease, while another one finishes its run."""
    if vendor == "sqlite" and (level or point != BETWEEN):
        pytest.skip("a phase is the only writer there, and there is one level")
    child = frozen_at(payments, point, level, request := payments.request("frozen", path="/phased/short/"))
    reply = payments.retrier.ask_until_final(request)
    child.cont()
    late = child.finish()

    assert reply.status == 201
    assert (late.status, late.code) == (409, "request-in-progress"), late
    assert payments.violations(request) == []
    assert payments.retrier.ask(request).body == reply.body


def frozen_at(payments, point, level, request):
    """A process that stands still at *point* of the *request*."""
    child = payments.lab.child(isolation=level).connect()
    child.send(request, halts=True)
    if point == BETWEEN:
        commits = [number for number, each in enumerate(points_of(payments)) if each == "after COMMIT"]
        child.halt_at(commits[1])
    else:
        child.halt_when(point)
    child.stop()
    return child


def test_nobody_waits_for_a_process_that_is_frozen_in_its_commit(payments, vendor):
    """It holds its row, so the key is in progress, at once; when it is thawed, it goes on."""
    if vendor == "sqlite":
        pytest.skip("there everybody waits for the only writer")
    child = frozen_at(payments, "after phase", "", request := payments.request("held"))
    end_leases()
    since = time.monotonic()

    assert payments.retrier.ask(request).code == "request-in-progress"
    assert time.monotonic() - since < 5
    child.cont()
    assert child.finish().status == 201
    assert payments.violations(request) == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_renewal_does_not_break_a_phase(payments, vendor, level):
    """Nor a phase a renewal, at any isolation level: the lease outlives phases that take longer than it does."""
    if vendor == "sqlite" and level:
        pytest.skip("there is one level")
    seconds = 0.1 if vendor == "sqlite" else 2.5  # in each of two phases, so that there is time to ask meanwhile
    request = payments.request("slow", path="/phased/short/", seconds=seconds)
    child = payments.lab.child(isolation=level).connect()
    child.send(request, "slow")
    if vendor != "sqlite":
        time.sleep(1.8)
        assert payments.retrier.ask(request).code == "request-in-progress"

    assert child.reply().status == 201
    assert payments.violations(request) == []
    assert json.loads(payments.retrier.ask(request).body)["id"]
