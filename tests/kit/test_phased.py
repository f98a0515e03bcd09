"""The kit and views in phases: an attempt that fails is resumed, and what a phase does twice is told."""

import http.client

import pytest
from django.conf import settings as django_settings
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend
from django.http import JsonResponse
from django.urls import path

from django_idempotency import current_operation, idempotent, once
from django_idempotency.models import IdempotencyRecord, PhasedRun
from django_idempotency.probes import NOT_DONE
from django_idempotency.testing import Call, NotProved, assert_idempotent, crash_points, race, replayed
from tests.app.models import Payment

PAY = Call.post("/pay-in-phases/", {"to": "shop"})


@pytest.fixture
def serve(settings):
    """Serve a handler of a request and its `phase` in phased mode."""

    def serve(handler, around=lambda view: view, **options):
        @idempotent(mode="phased", required=True, **options)
        def view(request):
            return JsonResponse(handler(request.idempotency.phase), status=201)

        settings.ROOT_URLCONF = (path("pay-in-phases/", around(view)),)

    return serve


def pay(name):
    return Payment.objects.create(amount=10, reference=name).pk


def order_and_ship(phase):
    return {"order": phase("order", lambda: pay("order")), "ship": phase("ship", lambda key: pay("ship"))}


# --- assert_idempotent ---


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_right_view_is_proved(serve, request, in_transaction):
    """Also that its retry goes on after the last phase; its run is no finding."""
    request.getfixturevalue("db" if in_transaction else "transactional_db")
    serve(order_and_ship)

    proof = assert_idempotent(PAY)

    assert proof.proved[0] == "a retry after an exception goes on after the last phase, and repeats nothing"
    assert "a duplicate gets the same answer and changes nothing" in proof.proved
    assert sorted(Payment.objects.values_list("reference", flat=True)) == ["order", "ship"]
    assert not PhasedRun.objects.exists()


@pytest.mark.django_db
def test_an_event_in_phases_is_proved():
    @once("paid", key=lambda event: event["id"], mode="phased")
    def on_paid(event):
        return order_and_ship(current_operation().phase)

    proof = assert_idempotent(lambda key: on_paid({"id": key}))

    assert any("goes on after the last phase" in each for each in proof.proved)


def mail(subject):
    EmailBackend().send_messages([EmailMessage(subject, "", "shop@example.com", ["payer@example.com"])])


@pytest.mark.django_db
def test_what_is_done_between_phases_is_done_by_each_attempt(serve, mailoutbox):
    """The retry finishes no phase twice, but mails again."""

    def handler(phase):
        order = phase("order", lambda: pay("order"))
        mail("You have ordered")
        return {"order": order}

    serve(handler)
    with pytest.raises(NotProved) as caught:
        assert_idempotent(PAY)

    told = str(caught.value)
    assert "its retry changed something all the same" in told
    assert "You have ordered" in told
    assert "Put it into a phase" in told


@pytest.mark.django_db
def test_what_a_phase_mails_is_mailed_once(serve, mailoutbox):
    def handler(phase):
        return {"order": phase("order", lambda: pay("order")), "mail": phase("mail", lambda: mail("Ordered"))}

    serve(handler)

    assert_idempotent(PAY)
    assert len(mailoutbox) == 1


@pytest.mark.django_db
def test_an_effect_around_the_view_is_found(serve):
    """As around an atomic one."""

    def around(view):
        def wrapped(request):
            pay("around")
            return view(request)

        return wrapped

    serve(order_and_ship, around)
    with pytest.raises(NotProved, match="app_payment"):
        assert_idempotent(PAY)


@pytest.mark.django_db
def test_its_requests_can_be_replayed(serve, client):
    serve(order_and_ship)
    with replayed():
        assert client.post("/pay-in-phases/", {"to": "shop"}, headers={"Idempotency-Key": "key-1"}).status_code == 201


# --- crash_points ---

killing = [pytest.mark.django_db(transaction=True, databases=["default", "other"]), pytest.mark.kill]


def ask(path):
    gateway = http.client.HTTPConnection("127.0.0.1", django_settings.GATEWAY_PORT, timeout=10)
    gateway.request("POST", path)
    gateway.getresponse().read()
    gateway.close()
    return path


def verdicts(report, name):
    """The lines of the report about points whose name has *name* in it."""
    return [line for line in str(report).splitlines() if name in line]


class TestKills:
    pytestmark = killing

    def test_a_right_view_takes_effect_once(self, serve):
        """Killed anywhere, also around the call of a phase; nobody waits for the lease of 30 seconds."""
        serve(order_and_ship)

        report = crash_points(PAY)

        assert {point.verdict for point in report.points} == {"once"}
        names = [point.name for point in report.points]
        for name in ("order", "ship"):
            assert {f"before the call of phase {name!r}", f"after the call of phase {name!r}"} <= set(names)
        assert names.count("after COMMIT") == 4  # claim, two phases, record
        assert {point.reply.replayed for point in report.points} == {True, False}
        assert verdicts(report, "after the call of phase 'ship'")[0].endswith("once, phase 'ship' ran twice")
        assert verdicts(report, "before the call of phase 'ship'")[0].endswith(" once")
        # Each point costs a second at most: less than any lease.
        assert report.seconds < len(report.points) * 3
        assert not Payment.objects.exists()
        assert not IdempotencyRecord.objects.exists()
        assert not PhasedRun.objects.exists()

    def test_a_foreign_effect_with_a_key_is_healed(self, serve, gateway):
        """The report says which phase ran twice, and what the kit cannot see."""
        serve(lambda phase: {"charge": phase("charge", lambda key: pay(ask(f"/charge/{key[:20]}")))})

        report = crash_points(PAY)

        assert report
        assert len(gateway) > len(set(gateway))
        twice = {name for point in report.points for name in point.repeated}
        assert twice == {"charge"}
        assert "Phase 'charge' has a key or a probe" in str(report)

    def test_a_foreign_effect_with_a_probe_is_healed(self, serve, gateway):
        serve(lambda phase: {"charge": phase("charge", lambda: pay(ask("/charge")), probe=lambda key: NOT_DONE)})

        assert crash_points(PAY)

    def test_a_foreign_effect_without_either_is_told_with_its_phase(self, serve, gateway):
        """It runs again, and the other system knows nothing of the first time."""
        serve(lambda phase: {"charge": phase("charge", lambda: pay(ask("/charge")))})

        with pytest.raises(NotProved) as caught:
            crash_points(PAY)

        told = str(caught.value)
        assert "in phase 'charge'" in told
        assert "the phase's transaction does not cover it" in told
        assert "Let the phase's function take `key`" in told
        assert "done again by the retry" in told

    def test_a_run_that_is_attempted_once_has_an_unknown_outcome(self, serve):
        """As its author has decided; nothing is done twice."""
        serve(lambda phase: {"order": phase("order", lambda: pay("order"))}, max_attempts=1)

        report = crash_points(PAY, unknown_outcomes=True)

        assert {point.verdict for point in report.points} == {"once", "unknown"}

    def test_a_race_runs_once(self, serve):
        serve(order_and_ship)

        assert race(PAY, processes=4).executed == 1
