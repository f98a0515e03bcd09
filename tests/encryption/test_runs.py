"""Runs in phases: their results and the stored request are sealed, and without the key nothing of them is repeated."""

from io import StringIO

import pytest
from django.core.management import call_command

from django_idempotency.models import IdempotencyRecord, PhasedRun
from django_idempotency.operations.locations import database
from django_idempotency.operations.sealed import lost_keys
from django_idempotency.probes import NOT_DONE
from django_idempotency.stores.database.rows import read_rows
from tests.app.models import Payment
from tests.app.serving import drf, is_replay, post
from tests.app.views import answer
from tests.encryption.conftest import NEW, OLD, SECRET
from tests.encryption.test_records import assert_refused, is_unknown, raw

pytestmark = pytest.mark.django_db(transaction=True)

REQUEST = {"card": SECRET}


@pytest.fixture
def fails(serve):
    """What the second of two phases raises, the next one first. Each phase is a payment."""
    fails = []

    def order():
        Payment.objects.create(amount=1, reference="order")
        return {"card": SECRET}

    def charge(key):
        Payment.objects.create(amount=2, reference="charge")
        if fails:
            raise fails.pop()
        return key

    def pay(request):
        ordered = request.idempotency.phase("order", order)
        request.idempotency.phase("charge", charge)
        return answer(request, ordered)

    serve(drf(pay, mode="phased"))
    return fails


@pytest.fixture
def interrupted(api, fails, encrypt):
    """A run whose first phase is finished, sealed by the old key."""
    encrypt({"old": OLD}, REQUIRE=True)
    fails.append(TimeoutError("the gateway is away"))
    assert post(api, REQUEST).status_code == 500
    assert effects() == ["order"]


def effects():
    return [*Payment.objects.order_by("pk").values_list("reference", flat=True)]


def resume():
    out = StringIO()
    call_command("idempotency_resume", stdout=out, stderr=out)
    return out.getvalue()


@pytest.mark.usefixtures("interrupted")
def test_neither_results_nor_the_request_are_in_the_tables():
    assert SECRET.encode() not in raw() + raw("django_idempotency_run")
    assert b"order" not in bytes(IdempotencyRecord.objects.get().head)
    assert b"/act/" not in bytes(PhasedRun.objects.get().sent)
    [stored] = read_rows(database("default"), IdempotencyRecord.objects.all())
    assert stored.run.results == ({"card": SECRET},)


@pytest.mark.usefixtures("interrupted")
def test_a_retry_goes_on_and_its_answer_is_sealed(api):
    assert post(api, REQUEST).json() == {"card": SECRET}
    assert effects() == ["order", "charge"]
    assert is_replay(post(api, REQUEST))
    assert SECRET.encode() not in raw()


@pytest.mark.usefixtures("interrupted")
def test_without_the_key_no_phase_is_repeated(api, encrypt, caplog):
    """Neither by a retry, nor after a restart; when the key is back, the run goes on where it was."""
    encrypt({"new": NEW})
    assert_refused(api, caplog, data=REQUEST)
    assert_refused(api, caplog, data=REQUEST)
    assert effects() == ["order"]
    [stored] = read_rows(database("default"), IdempotencyRecord.objects.all())
    assert stored.run is None

    encrypt({"new": NEW, "old": OLD})
    assert post(api, REQUEST).status_code == 201
    assert effects() == ["order", "charge"]


@pytest.mark.usefixtures("interrupted")
def test_a_probe_is_not_asked_about_a_run_that_cannot_be_read(api, serve, encrypt):
    """A deploy has made the view atomic: its probe knows nothing of phases that are finished."""
    serve(drf(lambda request: answer(request, {}), uncertain=lambda record: NOT_DONE))
    encrypt({"new": NEW})
    assert is_unknown(post(api, REQUEST))


@pytest.mark.usefixtures("interrupted")
def test_the_resumer_sends_a_sealed_request(api):
    assert "1 finished" in resume()
    assert effects() == ["order", "charge"]


@pytest.mark.usefixtures("interrupted")
def test_the_resumer_waits_for_a_lost_key(encrypt):
    """It sends nothing, keeps why, and tries again later: no operator has to decide about each run."""
    encrypt({"new": NEW})
    assert "to be tried again" in resume()
    run = PhasedRun.objects.get()
    assert (effects(), run.doubt) == (["order"], 0)
    assert "its key 'old' is gone" in run.error

    encrypt({"new": NEW, "old": OLD})
    PhasedRun.objects.update(resume_at=run.executed_at)
    assert "1 finished" in resume()
    assert effects() == ["order", "charge"]


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("sealed", ["head", "sent"])
def test_a_run_has_no_place_for_another_runs_values(api, fails, encrypt, sealed):
    """Not even for its own results in the place of its request."""
    fails.append(TimeoutError("the gateway is away"))
    post(api, REQUEST, key="key-2")
    if sealed == "head":
        IdempotencyRecord.objects.filter(key="key-1").update(head=IdempotencyRecord.objects.get(key="key-2").head)
        assert is_unknown(post(api, REQUEST))
    else:
        PhasedRun.objects.update(sent=IdempotencyRecord.objects.get(key="key-2").head)
        assert "2 to be tried again" in resume()
    assert effects() == ["order", "order"]


@pytest.mark.usefixtures("interrupted")
def test_its_key_is_still_needed(encrypt):
    """For the results and for the request."""
    assert lost_keys("default") == {}
    encrypt({"new": NEW})
    assert lost_keys("default") == {"old": 2}


def test_a_run_without_a_finished_phase_is_forgotten(api, serve, encrypt):
    """Its claim has an empty list of phases, which is not sealed: nothing is in it."""
    encrypt({"a": OLD}, REQUIRE=True)

    def refuse(request):
        return answer(request, {"card": SECRET}, 400)

    serve(drf(refuse, mode="phased"))
    assert post(api).status_code == 400
    assert not IdempotencyRecord.objects.exists()
