"""What a handler may do with its phases: every mistake is an error that names the phase."""

import json
from contextlib import closing

import pytest
from django.db import DatabaseError, connection, transaction

from django_idempotency import idempotent, once
from django_idempotency.exceptions import PhaseError, PolicyError, TransactionBroken
from django_idempotency.models import IdempotencyRecord, PhasedRun
from django_idempotency.probes import NOT_DONE, UNSURE
from tests.app.models import Payment
from tests.app.serving import VENDOR, is_replay, plain, post
from tests.app.views import answer
from tests.phased.conftest import effects

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def raising(browser):
    """A client that raises what the view raises."""
    browser.raise_request_exception = True
    return browser


@pytest.fixture
def act(serve):
    """Serve a handler in phases that is a function of `phase`."""

    def act(handler, **options):
        def view(request):
            return answer(request, {"result": handler(request.idempotency.phase)})

        serve(plain(view, mode="phased", **options))

    return act


def pay(reference="paid"):
    return Payment.objects.create(amount=1, reference=reference).pk


def nothing():
    return None


# --- names and order ---


def nested(phase):
    return phase("outer", lambda: phase("inner", pay))


def twice(phase):
    phase("pay", pay)
    return phase("pay", pay)


def unnamed(phase):
    return phase("", pay)


def of_tuple(phase):
    pay_in_phase(phase)
    return phase("tuple", lambda: (1, 2))


def of_nan(phase):
    pay_in_phase(phase)
    return phase("number", lambda: float("nan"))


def of_object(phase):
    pay_in_phase(phase)
    return phase("object", lambda: Payment(amount=1))


def inside_atomic(phase):
    with transaction.atomic():
        return phase("pay", pay)


def on_after_an_error(phase):
    try:
        phase("first", lambda: 1 / 0)
    except ZeroDivisionError:
        return phase("second", pay)


def pay_in_phase(phase):
    phase("paid", pay)


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        (nested, "'inner' is inside of phase 'outer'"),
        (twice, "'pay' is there twice"),
        (unnamed, "name of a phase"),
        (of_tuple, "'tuple' .* lists, not tuples"),
        (of_nan, "'number' .* JSON"),
        (of_object, "'object' .* JSON"),
        (inside_atomic, "'pay' begins inside a transaction"),
        (on_after_an_error, "'second' follows phase 'first', which raised"),
    ],
)
def test_a_mistake_names_its_phase(raising, act, handler, named):
    """It is an error at the first attempt, before anybody has to resume."""
    act(handler)

    with pytest.raises(PhaseError, match=named):
        post(raising)

    assert IdempotencyRecord.objects.filter(status__gt=0).count() == 0


def test_a_mistake_cannot_be_swallowed(raising, act):
    """The handler that catches every exception gets no answer stored."""

    def handler(phase):
        try:
            nested(phase)
        except Exception:
            return "all is well"

    act(handler)

    with pytest.raises(PhaseError, match="'inner'"):
        post(raising)
    assert effects() == []


@pytest.mark.parametrize("place", ["before the first phase", "after phase 'paid'"])
def test_a_write_outside_of_a_phase_is_not_sent(raising, act, place):
    """It would commit by itself, and be repeated by each retry."""

    def handler(phase):
        if place != "before the first phase":
            pay_in_phase(phase)
        list(Payment.objects.all())  # reading is allowed
        with transaction.atomic():
            pay("outside")

    act(handler)

    with pytest.raises(PhaseError, match=f"outside of a phase, {place}.*app_payment"):
        post(raising)
    assert "outside" not in effects()


def test_phases_need_their_mode(raising, serve):
    """In atomic mode there is one transaction, and nothing to resume."""
    serve(plain(lambda request: request.idempotency.phase("pay", pay)))

    with pytest.raises(PhaseError, match=r"'pay'.*mode=\"phased\""):
        post(raising)


def test_a_transaction_around_the_view_is_an_error(raising, serve):
    """ATOMIC_REQUESTS would keep every phase from committing."""
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        view = plain(lambda request: answer(request, request.idempotency.phase("pay", pay)), mode="phased")
        serve(view)
        with pytest.raises(PolicyError, match="non_atomic_requests"):
            post(raising)
        serve(transaction.non_atomic_requests(view))
        assert post(raising).status_code == 201
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False


def test_a_store_without_runs_is_an_error(raising, serve, settings):
    """Phases are for the database of the DatabaseStore."""
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}
    serve(plain(nothing, mode="phased", store="memory"))

    with pytest.raises(PolicyError, match="needs a DatabaseStore"):
        post(raising)


@pytest.mark.parametrize("swallow", ["error", "rollback"])
def test_a_phase_that_breaks_its_transaction_is_rolled_back(raising, act, swallow):
    """Otherwise its recovery point would say that it was done."""

    def broken():
        pay("broken")
        if swallow == "rollback":
            transaction.set_rollback(True)
            return
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT * FROM missing")
        except DatabaseError:
            if VENDOR != "postgresql":  # elsewhere an error undoes its statement alone
                transaction.set_rollback(True)

    act(lambda phase: phase("broken", broken))

    with pytest.raises(TransactionBroken, match="'broken'"):
        post(raising)
    assert effects() == []


@pytest.mark.skipif(VENDOR != "mariadb", reason="elsewhere DDL is a part of the transaction")
def test_a_phase_that_ends_its_transaction_is_an_error(raising, act):
    """What it wrote may be committed without its recovery point."""

    def ddl():
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE app_unique COMMENT = 'altered'")

    act(lambda phase: phase("ddl", ddl))

    with pytest.raises(DatabaseError) as caught:
        post(raising)
    assert "'ddl' has ended its transaction" in "".join(caught.value.__notes__)


# --- what the code does after a deploy ---


derived_keys = []  # of the phase "charge" at the first attempt


@pytest.fixture
def interrupted(browser, act):
    """
    Run a handler whose phase "order" is finished, or all of *finished*, and whose next one raised; and serve another
    one in its place.
    """
    derived_keys.clear()

    def interrupted(handler, finished=("order",), **options):
        def first(phase):
            for name in finished:
                phase(name, lambda name=name: pay(name))
            phase("charge", fail)

        def fail(key):
            derived_keys.append(key)
            raise TimeoutError

        act(first)
        assert post(browser).status_code == 500
        act(handler, **options)
        return browser

    return interrupted


def test_a_new_phase_behind_the_last_recorded_one_runs(interrupted):
    """As it would at the first attempt."""

    def handler(phase):
        phase("order", pay)
        phase("check", lambda: pay("check"))
        return phase("charge", lambda: pay("charge"))

    client = interrupted(handler)

    assert post(client).status_code == 201
    assert effects() == ["order", "check", "charge"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("purchase", "'purchase' comes where phase 'order' is recorded"), ("charge", "'charge' comes where")],
)
def test_a_recorded_phase_that_is_not_reached_in_its_place_is_an_error(interrupted, name, message):
    """Renamed, removed or moved: nobody can say what it stands for now."""
    client = interrupted(lambda phase: phase(name, pay))
    client.raise_request_exception = True

    with pytest.raises(PhaseError, match=message):
        post(client)
    assert effects() == ["order"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["check", "order", "charge"], "'check' comes where phase 'order' is recorded"),
        (["order", "charge"], "'charge' comes where phase 'check' is recorded"),
        (["order", "charge", "check"], "'charge' comes where phase 'check' is recorded"),
        (["check", "charge"], "'check' comes where phase 'order' is recorded"),
    ],
    ids=["swapped", "removed", "moved behind", "first removed"],
)
def test_several_recorded_phases_keep_their_order(interrupted, names, message):
    """The error names the first that is not in its place, and no phase runs."""

    def handler(phase):
        for name in names:
            phase(name, pay)

    client = interrupted(handler, ["order", "check"])
    client.raise_request_exception = True

    with pytest.raises(PhaseError, match=message):
        post(client)
    assert effects() == ["order", "check"]


def test_a_deploy_that_is_taken_back_goes_on(interrupted, act):
    """The error has changed nothing of the run."""
    client = interrupted(lambda phase: phase("purchase", pay))
    assert post(client).status_code == 500

    def before(phase):
        phase("order", pay)
        return phase("charge", lambda: pay("charge"))

    act(before)

    assert post(client).status_code == 201
    assert effects() == ["order", "charge"]


def test_a_phase_that_is_not_recorded_may_go(interrupted):
    """Or move: it has left nothing that a retry could miss, but for what it has reached outside."""

    def handler(phase):
        phase("order", pay)
        return phase("ship", lambda: pay("ship"))

    client = interrupted(handler)

    assert post(client).status_code == 201
    assert effects() == ["order", "ship"]


def test_a_recorded_phase_that_is_not_reached_at_all_is_an_error(interrupted):
    """Also if the handler answers."""
    client = interrupted(lambda phase: "done")
    client.raise_request_exception = True

    with pytest.raises(PhaseError, match="'order' is recorded"):
        post(client)


def test_a_phase_is_renamed(interrupted):
    """`was` finds what was recorded under the former name, and keeps the key of what may have begun."""
    keys = []

    def charge(key):
        keys.append(key)
        return pay("charge")

    def handler(phase):
        phase("purchase", pay, was="order")
        return phase("charge_card", charge, was="charge")

    client = interrupted(handler)

    assert post(client).status_code == 201
    assert effects() == ["order", "charge"]
    (key,) = keys
    assert [key] == derived_keys


# --- probes ---


def probe_of(answer_):
    asked = []

    def probe(key):
        asked.append(key)
        if isinstance(answer_, Exception):
            raise answer_
        return answer_

    probe.asked = asked
    return probe


def charging(probe):
    keys = []

    def charge(key):
        keys.append(key)
        return pay("charge")

    def handler(phase):
        phase("order", pay)
        return phase("charge", charge, probe=probe)

    handler.keys = keys
    return handler


def test_a_probe_is_not_asked_at_the_first_attempt(browser, act):
    """Nothing may have begun."""
    probe = probe_of(UNSURE)
    act(charging(probe))

    assert post(browser).status_code == 201
    assert probe.asked == []


def test_what_a_probe_finds_is_the_result(interrupted):
    """The phase does not run again."""
    probe = probe_of({"id": "ch_1"})
    handler = charging(probe)
    client = interrupted(handler)

    assert post(client).json() == {"result": {"id": "ch_1"}}
    assert handler.keys == []
    assert len(probe.asked) == 1
    assert is_replay(post(client))


def test_what_was_not_done_runs(interrupted):
    """With the key that the probe was asked about."""
    probe = probe_of(NOT_DONE)
    handler = charging(probe)

    assert post(interrupted(handler)).status_code == 201
    assert handler.keys == probe.asked
    assert effects() == ["order", "charge"]


def test_a_phase_that_a_deploy_has_put_before_it_does_not_hide_what_may_have_begun(interrupted):
    """The probe is asked although its phase is not the first that is not finished."""
    handler = charging(probe_of({"id": "ch_1"}))

    def with_check(phase):
        order = phase("order", pay)
        phase("check", lambda: pay("check"))
        return handler(lambda name, *args, **kwargs: order if name == "order" else phase(name, *args, **kwargs))

    assert post(interrupted(with_check)).json() == {"result": {"id": "ch_1"}}
    assert handler.keys == []
    assert effects() == ["order", "check"]


@pytest.mark.parametrize("unsure", [UNSURE, None, TimeoutError("away")], ids=["UNSURE", "None", "raises"])
def test_a_probe_that_cannot_tell_leaves_the_outcome_unknown(interrupted, unsure):
    """Refused and listed, until the probe can tell: each retry asks it again."""
    probe = probe_of(unsure)
    client = interrupted(charging(probe))

    for attempt in (1, 2):
        response = post(client)
        assert (response.status_code, response.json()["code"]) == (409, "outcome-unknown")
        assert len(probe.asked) == attempt
        assert IdempotencyRecord.objects.unsettled().count() == 1
    run = PhasedRun.objects.get()
    assert (run.phase, run.attempts) == ("charge", 3)
    assert "'charge' may have been done" in run.error


def test_a_phase_whose_system_cannot_be_asked_is_never_repeated(interrupted, act):
    """It says so with UNSURE in place of a probe; a later deploy may bring one."""
    handler = charging(UNSURE)
    client = interrupted(handler)

    for _ in range(2):
        response = post(client)
        assert (response.status_code, response.json()["code"]) == (409, "outcome-unknown")
    assert (handler.keys, effects()) == ([], ["order"])
    assert "'charge' may have been done, and its system cannot be asked" in PhasedRun.objects.get().error
    act(charging(probe_of({"id": "ch_1"})))
    assert post(client).json() == {"result": {"id": "ch_1"}}


def test_a_phase_whose_system_cannot_be_asked_runs_at_the_first_attempt(browser, act):
    """Nothing may have begun."""
    act(charging(UNSURE))

    assert post(browser).status_code == 201


@pytest.mark.parametrize("probe", [NOT_DONE, "find", {"id": 1}])
def test_what_is_no_probe_is_an_error_at_once(raising, act, probe):
    """Before anybody has to resume."""
    act(charging(probe))

    with pytest.raises(PhaseError, match="The probe of phase 'charge' is a callable or UNSURE"):
        post(raising)


def test_a_probe_is_asked_again(interrupted, act):
    """And when it can tell, the run ends as any other."""
    client = interrupted(charging(probe_of(UNSURE)))
    assert post(client).status_code == 409
    act(charging(probe_of({"id": "ch_1"})))

    assert post(client).json() == {"result": {"id": "ch_1"}}
    assert not IdempotencyRecord.objects.unsettled().exists()


def test_a_phase_with_a_foreign_effect_that_raised_is_probed_although_it_is_the_first(browser, act):
    """Its exception says nothing about the card: the claim stays."""
    keys, probe = [], probe_of({"id": "ch_1"})

    def charge(key):
        keys.append(key)
        raise TimeoutError

    act(lambda phase: phase("charge", charge, probe=probe))

    assert post(browser).status_code == 500
    assert IdempotencyRecord.objects.get().status == 0
    assert post(browser).json() == {"result": {"id": "ch_1"}}
    assert keys == probe.asked


# --- without a key ---


def test_without_a_key_phases_commit_and_nothing_is_recorded(browser, serve):
    """`request.idempotency` is false, and has phases all the same."""
    seen = []

    def view(request):
        seen.append(bool(request.idempotency))
        return answer(request, {"id": request.idempotency.phase("pay", lambda key: pay(key[:8]))})

    serve(plain(view, mode="phased"))
    responses = [post(browser, key=None) for _ in range(2)]

    assert [response.status_code for response in responses] == [201, 201]
    assert len(set(effects())) == 2
    assert seen == [False, False]
    assert not IdempotencyRecord.objects.exists()


def test_without_a_key_the_same_mistakes_are_errors(raising, serve):
    """Who tests without keys finds them too."""
    serve(plain(lambda request: twice(request.idempotency.phase), mode="phased"))

    with pytest.raises(PhaseError, match="'pay' is there twice"):
        post(raising, key=None)


def test_the_handle_has_its_key(browser, serve):
    """In phased mode as in any other."""

    def view(request):
        handle = request.idempotency
        return answer(request, [handle.key, handle.derive_key("a") == handle.derive_key("a")])

    serve(idempotent(mode="phased")(view))

    assert json.loads(post(browser).content) == ["key-1", True]


def test_a_key_of_a_phase_is_the_derived_key_of_its_name(browser, serve):
    """So a probe, an operator and a handler of atomic mode know it."""

    def view(request):
        handle = request.idempotency
        return answer(request, [handle.phase("charge", lambda key: key), handle.derive_key("charge")])

    serve(plain(view, mode="phased"))
    first, second = json.loads(post(browser).content)

    assert first == second


# --- with other work ---


@pytest.mark.parametrize("fails", [False, True])
def test_a_function_of_once_inside_a_phase_commits_with_it(browser, act, fails):
    """It is work in the phase's transaction."""

    @once("inner", key=lambda event: event)
    def inner(event):
        return pay("inner")

    def both():
        inner("e1")
        if fails:
            raise TimeoutError

    act(lambda phase: phase("both", both))
    post(browser)

    assert effects() == ([] if fails else ["inner"])
    assert IdempotencyRecord.objects.filter(operation="inner").exists() is not fails


def test_a_call_for_the_same_identity_joins_the_run(browser, serve):
    """A decorator around a decorated handler: one claim, and one list of phases."""
    inner = idempotent(mode="phased")(lambda request: answer(request, request.idempotency.phase("pay", pay)))
    serve(plain(lambda request: inner(request), mode="phased"))

    assert post(browser).status_code == 201
    assert is_replay(post(browser))
    assert effects() == ["paid"]


def test_an_atomic_block_that_is_left_open_is_an_error(raising, act):
    """It would be open for the next request of this thread."""

    def handler(phase):
        phase("pay", pay)
        transaction.atomic().__enter__()

    act(handler)
    with pytest.raises(PhaseError, match="left an atomic block open"):
        post(raising)
    act(lambda phase: phase("pay", pay))

    assert connection.in_atomic_block is False
    assert post(raising).status_code == 201


def test_a_hook_that_raises_after_the_commit_does_not_repeat_its_phase(browser, act):
    """The phase is recorded, although the handler got an exception."""
    raises = [True]

    def hooked():
        if raises:
            raises.clear()
            transaction.on_commit(fail)
        return pay()

    def fail():
        raise TimeoutError

    act(lambda phase: phase("pay", hooked))

    assert [post(browser).status_code for _ in range(2)] == [500, 201]
    assert effects() == ["paid"]


# --- the end ---


@pytest.mark.skipif(VENDOR != "postgresql", reason="elsewhere a DELETE sees what was committed meanwhile")
def test_a_renewal_does_not_break_the_record(act, browser):
    """At REPEATABLE READ it makes the deletion of the run fail, after which the record is written without one."""
    runs = PhasedRun._meta.db_table
    renewed = []

    def renew(execute, sql, *call):
        if sql.startswith(f"DELETE FROM {runs}") and not renewed:
            with closing(connection.copy()) as other, other.cursor() as cursor:
                cursor.execute(f"UPDATE {runs} SET ends_at = ends_at + interval '1 second'")
                renewed.append(cursor.rowcount)
        return execute(sql, *call)

    act(lambda phase: phase("pay", pay))
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    try:
        with connection.execute_wrapper(renew):
            assert post(browser).status_code == 201
    finally:
        connection.close()

    assert renewed == [1]
    assert effects() == ["paid"]
    assert is_replay(post(browser))
