"""`manage.py idempotency_resume`: interrupted runs are finished although their clients never come back."""

import json
import time
from base64 import b64decode, b64encode
from datetime import timedelta
from io import StringIO
from zoneinfo import ZoneInfo

import pytest
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone, translation
from django.views.decorators.csrf import csrf_protect
from rest_framework.decorators import api_view, permission_classes
from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.response import Response

from django_idempotency import idempotent
from django_idempotency.core.keys import time_ordered_key
from django_idempotency.models import GIVEN_UP, REFUSED, DatabaseNow, IdempotencyRecord, PhasedRun
from django_idempotency.operations import locations, records, resuming
from django_idempotency.operations.resuming import Result, Resumer
from django_idempotency.probes import UNSURE
from django_idempotency.stores.database import interrupted
from django_idempotency.stores.database.rows import read_rows
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, drf, expire, hearing, is_replay, plain, post
from tests.phased.conftest import ALL, effects
from tests.phased.test_ends import consumer

pytestmark = pytest.mark.django_db(transaction=True)

AWAY = "the gateway is away"


def resume(*arguments, **options):
    """Run the command once. What it writes."""
    out = StringIO()
    call_command("idempotency_resume", *arguments, stdout=out, stderr=out, **options)
    return out.getvalue()


def interrupt(script, client, phase="charge", **about):
    """Let a request fail in *phase*, and forget what ran."""
    script.fails[phase] = TimeoutError(AWAY)
    assert post(client, **about).status_code == 500
    script.calls.clear()


def the_run():
    return PhasedRun.objects.get()


def code(response):
    return response.status_code, response.json()["code"]


# --- it finishes ---


def test_a_run_is_finished_and_its_client_gets_the_replay(pay, client):
    """After the last finished phase, and with the key that its first attempt gave to the gateway."""
    script = pay()
    interrupt(script, client)

    assert resume() == "Resumed 1 run in 'default': 1 finished.\n"
    assert script.calls == ["charge", "ship"]
    assert script.keys["charge"][0] == script.keys["charge"][1]
    assert effects() == ALL
    assert not PhasedRun.objects.exists()
    replay = post(client)
    assert (replay.status_code, is_replay(replay)) == (201, True)
    assert [result["phase"] for result in replay.json()["results"]] == ALL
    assert script.calls == ["charge", "ship"]
    assert resume() == ""


def test_the_user_is_loaded_anew(serve, edge, client, user, script):
    """As the view sees it, the user is authenticated, and is what today's row says."""
    seen = []

    def handler(request):
        seen.append((request.user, request.user.is_authenticated, request.user.email))
        return script(request)

    serve({"drf": drf, "plain": plain}[edge](handler, mode="phased"))
    interrupt(script, client)
    type(user).objects.update(email="new@example.com")

    assert "1 finished" in resume()
    assert seen == [(user, True, ""), (user, True, "new@example.com")]


def test_an_anonymous_request_is_sent_again_as_one(pay, script):
    """It has no user to load."""
    pay()
    interrupt(script, Client(raise_request_exception=False))

    assert "1 finished" in resume()


def test_a_run_of_an_async_view_is_finished(serve):
    """Its handler is awaited on an event loop of its own."""
    fails = [TimeoutError(AWAY)]

    async def order():
        return (await Payment.objects.acreate(amount=1, reference="order")).pk

    def charge(key):
        if fails:
            raise fails.pop()
        return key

    @idempotent(mode="phased")
    async def pay(request):
        await request.idempotency.aphase("order", order)
        return HttpResponse(await request.idempotency.aphase("charge", charge), status=201)

    serve(pay)
    client = Client(raise_request_exception=False)
    assert post(client).status_code == 500

    assert "1 finished" in resume()
    replay = post(client)
    assert (replay.status_code, is_replay(replay), Payment.objects.count()) == (201, True, 1)


def test_the_request_is_what_it_was(serve, script, browser, settings):
    """Its body, query, language, time zone, and what the project's middleware has chosen; CSRF is not enforced."""
    seen = []

    def handler(request):
        seen.append(
            (
                request.get_full_path(),
                request.body,
                request.get_host(),
                request.is_secure(),
                request.resolver_match.route,
                request.headers["Accept-Language"],
                translation.get_language(),
                timezone.get_current_timezone_name(),
                reverse("act"),
            )
        )
        return script(request)

    before = translation.get_language()
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.choose"]
    settings.ROOT_URLCONF = "tests.checks.no_urls"
    urlpatterns[:] = [path("act/", csrf_protect(plain(handler, mode="phased")), name="act")]
    script.fails["charge"] = TimeoutError(AWAY)
    response = post(
        browser,
        url="/act/?a=1&b=%C3%A4",
        headers={"Accept-Language": "de", "Host": "tenant-a.example"},
        secure=True,
    )

    assert response.status_code == 500
    assert "1 finished" in resume()
    assert seen[0] == seen[1]
    assert seen[1][0] == "/act/?a=1&b=%C3%A4"
    assert seen[1][2:4] == ("tenant-a.example", True)
    assert seen[1][6:] == ("de", "Europe/Berlin", "/act/")
    assert translation.get_language() == before


urlpatterns = []


def choose(get_response):
    """A middleware that chooses URLconf, language and time zone."""

    def middleware(request):
        request.urlconf = __name__
        with translation.override("de"), timezone.override(ZoneInfo("Europe/Berlin")):
            return get_response(request)

    return middleware


def test_a_form_keeps_its_messages(serve, script, browser):
    """Its view adds one and redirects, and the retry shows it."""

    def handler(request):
        script(request)
        messages.success(request, "paid")
        return HttpResponseRedirect("/done/")

    serve(plain(handler, mode="phased"))
    script.fails["charge"] = TimeoutError(AWAY)
    fields = {"_idempotency_key": "form-1", "amount": "10"}
    assert browser.post("/act/", fields).status_code == 500

    assert "1 finished" in resume()
    replay = browser.post("/act/", fields)
    assert (replay.status_code, replay.url, is_replay(replay)) == (302, "/done/", True)
    assert [str(message) for message in messages.get_messages(replay.wsgi_request)] == ["paid"]


failing = []


@api_view(["POST"])
def bare(request):
    """A view without a decorator of ours."""
    request.idempotency.phase("order", lambda: Payment.objects.create(amount=1, reference="order").pk)
    if failing:
        raise failing.pop()
    return Response({}, status=201)


def test_what_the_middleware_protects_is_resumed(serve, api, settings):
    """Without a decorator: the options are in the setting."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django_idempotency.middleware.IdempotencyMiddleware"]
    settings.IDEMPOTENCY = {"MODE": "phased"}
    serve(bare)
    failing.append(TimeoutError(AWAY))
    assert post(api).status_code == 500

    assert "1 finished" in resume()
    assert effects() == ["order"]
    assert is_replay(post(api))


# --- today's permissions ---


def unsettled(reason, phase="charge"):
    """The run is listed, nothing of it ran, and the reason is kept."""
    run = the_run()
    assert (run.doubt, reason in run.error, run.phase) == (REFUSED, True, phase), run.error
    assert effects() == ["order"]
    out = StringIO()
    call_command("idempotency_unsettled", stdout=out)
    assert out.getvalue().startswith("Unsettled 1 of 1")
    return True


def test_a_user_who_is_gone(pay, client, user, script):
    """The run stays as it was, unsettled."""
    pay()
    interrupt(script, client)
    user.delete()
    with hearing("unsettled") as heard:
        said = resume()

    assert "1 unsettled" in said
    assert f"{bytes(the_run().digest).hex()} is unsettled: its user is gone" in said
    assert unsettled("its user is gone")
    assert "its user is gone" in str(heard[0][1]["error"])
    assert resume() == ""  # it is not tried again


def test_a_user_who_is_not_active_any_more(pay, client, user, script):
    """Their sessions and tokens would be refused, too."""
    pay()
    interrupt(script, client)
    type(user).objects.update(is_active=False)
    resume()

    assert unsettled("its user is not active any more")


def needs_permission(view):
    return permission_required("app.add_payment", raise_exception=True)(view)


class MayAdd(BasePermission):
    """The user has the permission to add payments."""

    def has_permission(self, request, view):
        return request.user.has_perm("app.add_payment")


GUARDED = {
    "drf": lambda handler: api_view(["POST"])(
        permission_classes([IsAuthenticated, MayAdd])(idempotent(mode="phased")(handler))
    ),
    "plain": lambda handler: login_required(needs_permission(idempotent(mode="phased")(handler))),
}


def test_a_user_who_may_not_any_more(serve, edge, client, user, script):
    """The view's own guards decide; its client's retry, under permissions that are back, resumes the run."""
    permission = Permission.objects.get(codename="add_payment")
    user.user_permissions.add(permission)
    serve(GUARDED[edge](script))
    interrupt(script, client)
    user.user_permissions.remove(permission)
    resume()

    assert unsettled("its view answered with status 403, so its user may not do this, or not any more")
    user.user_permissions.add(permission)
    assert post(client).status_code == 201
    assert effects() == ALL


@pytest.mark.parametrize(
    ("error", "status"), [(PermissionDenied, 403), (NotAuthenticated, 401), (Http404, 404)], ids=["403", "401", "404"]
)
def test_a_handler_that_refuses(pay, script, client, error, status, edge):
    """Its own look at the rows is a guard, too. The attempt is counted, and its phases stay."""
    if error is NotAuthenticated and edge == "plain":
        pytest.skip("this exception is DRF's")
    pay()
    interrupt(script, client)

    def refuse():
        raise error()

    script.before["charge"] = refuse
    resume()

    assert unsettled(f"status {status}", "order")
    assert the_run().attempts == 2


# --- the same operation, or none ---


def test_a_caller_who_was_known_by_a_credential(pay, script, edge):
    """Credentials are not stored, so the request would have another scope, and charge anew."""
    pay()
    caller = Client(raise_request_exception=False, headers={"X-Api-Key": "secret"})
    interrupt(script, caller)
    resume()

    assert unsettled("has another identity")
    assert b"secret" not in bytes(the_run().sent)
    assert post(caller).status_code == 201


def test_what_the_scope_is_made_of_can_be_stored(pay, client, script):
    """By the option `store_request`."""

    def with_account(request, sent):
        sent["headers"]["HTTP_X_ACCOUNT"] = request.headers["X-Account"]
        return sent

    pay(scope=lambda request: request.headers["X-Account"], store_request=with_account)
    interrupt(script, client, headers={"X-Account": "7"})

    assert "1 finished" in resume()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda serve, protect, script: serve(script, route="elsewhere/"), "no view is at /act/ any more"),
        (lambda serve, protect, script: serve(script), "is not protected in phased mode any more"),
        (lambda serve, protect, script: serve(protect(script)), "is not protected in phased mode any more"),
        (
            lambda serve, protect, script: serve(protect(script, mode="phased", methods=["PUT"])),
            "is not protected in phased mode any more",
        ),
        (
            lambda serve, protect, script: serve(protect(script, mode="phased", header="X-Other")),
            "its stored request has no key",
        ),
        (
            lambda serve, protect, script: serve(protect(script, mode="phased", key_format="uuid")),
            "its stored request is refused",
        ),
        (
            lambda serve, protect, script: serve(protect(script, mode="phased", operation="other")),
            "has another identity",
        ),
        (
            lambda serve, protect, script: serve(protect(script, mode="phased", fingerprint=lambda request: b"new")),
            "has another fingerprint",
        ),
    ],
    ids=["gone", "unprotected", "atomic", "method", "no key", "other key", "renamed", "fingerprint"],
)
def test_a_deploy_that_changed_the_view(pay, serve, protect, client, script, change, reason):
    """What it would do now is not known to be the same, so that nothing runs."""
    pay()
    interrupt(script, client)
    change(serve, protect, script)
    resume()

    assert unsettled(reason)


def test_a_key_that_is_too_old_by_now(pay, client, script, monkeypatch):
    """`key_max_age` is for retries; the first attempt was young enough."""
    pay(key_max_age=timedelta(hours=1))
    now = time.time()
    interrupt(script, client, key=time_ordered_key(int(now * 1000), b"0123456789"))
    monkeypatch.setattr(time, "time", lambda: now + 7200)

    assert "1 finished" in resume()


@pytest.mark.parametrize("sent", [b"{}", b"[]", b"\xff", {"body": "?"}, {"scheme": None, "headers": None}], ids=repr)
def test_a_stored_request_that_was_changed(pay, client, script, sent):
    """It is said, and nothing runs."""
    pay()
    interrupt(script, client)
    if isinstance(sent, dict):
        sent = json.dumps(json.loads(bytes(the_run().sent)) | sent).encode()
    PhasedRun.objects.update(sent=sent)
    resume()

    assert unsettled("its stored request cannot be read")


# --- what is stored ---


@pytest.mark.parametrize("options", [{"store_request": False}, {"max_body": 5}, {"store_request": lambda *sent: None}])
def test_a_request_that_is_not_stored_is_left_to_its_client(pay, client, script, options):
    """The command says so, once in a watch, and changes nothing."""
    script.status = 503
    pay(**options)
    assert post(client).status_code == 503
    script.status = 204 if "max_body" in options else 201

    assert resume() == (
        "1 interrupted request in 'default' cannot be sent again, because it is not stored (`store_request`,"
        " `max_body`): its client's retry resumes it.\n"
    )
    assert the_run().doubt == 0


def test_a_call_is_left_to_its_broker():
    """Calls of `@once` functions are not stored."""
    on_paid = consumer()
    on_paid.fails.append(TimeoutError())
    with pytest.raises(TimeoutError):
        on_paid({"id": "e1"})

    assert resume() == (
        "1 interrupted call of @once functions in 'default' cannot be made again: a redelivery resumes it.\n"
    )
    assert on_paid({"id": "e1"})


def without_card(request, sent):
    body = json.loads(b64decode(sent["body"])) | {"card": None}
    return sent | {"body": b64encode(json.dumps(body).encode()).decode()}


@pytest.mark.parametrize("option", [without_card, f"{__name__}.without_card"], ids=["callable", "dotted"])
def test_a_secret_is_taken_out(pay, client, script, option):
    """The request that is sent again lacks it, and is the same operation with the same keys all the same."""
    pay(store_request=option)
    interrupt(script, client, data={"amount": 10, "card": "4242"})

    assert b"4242" not in b64decode(json.loads(bytes(the_run().sent))["body"])
    assert "1 finished" in resume()
    assert script.keys["charge"][0] == script.keys["charge"][1]
    assert is_replay(post(client, {"amount": 10, "card": "4242"}))


class Cipher:
    """Turns a body around."""

    def __call__(self, request, sent):
        return sent | {"body": sent["body"][::-1]}

    def restore(self, sent):
        return sent | {"body": sent["body"][::-1]}


def test_a_request_is_encrypted(serve, protect, client, script):
    """`restore` gives it back before it is sent."""
    bodies = []

    def handler(request):
        bodies.append(request._request.body if hasattr(request, "_request") else request.body)
        return script(request)

    serve(protect(handler, mode="phased", store_request=Cipher()))
    interrupt(script, client)

    assert bodies[0] not in b64decode(json.loads(bytes(the_run().sent))["body"] + "==")
    assert "1 finished" in resume()
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    "made", ["text", {"body": object()}, {"body": float("nan")}], ids=["a string", "an object", "no number"]
)
def test_a_callable_that_returns_something_else(pay, client, script, made):
    """It is the project's error, before anything runs."""
    pay(store_request=lambda request, sent: made)

    assert post(client).status_code == 500
    assert (script.calls, IdempotencyRecord.objects.count()) == ([], 0)


# --- errors, pauses, and the end of it ---


def pause():
    """Seconds until a resumer may try the run again."""
    run = interrupted.find("default", bytes(the_run().digest))
    return (run.resume_at - run.now).total_seconds()


def end_pause():
    PhasedRun.objects.update(resume_at=DatabaseNow())


def make_older(seconds):
    past = timezone.now() - timedelta(seconds=seconds)
    IdempotencyRecord.objects.update(executed_at=past)
    PhasedRun.objects.update(executed_at=past)


def test_an_error_is_kept_and_tried_again_later(pay, client, script):
    """Each pause is as long as the run is old. A client's retry does not wait for it."""
    pay()
    interrupt(script, client)
    script.fails["charge"] = ConnectionError("still away")
    said = resume()

    assert "1 to be tried again" in said
    assert "is to be tried again: ConnectionError: still away" in said
    run = the_run()
    assert (run.attempts, run.doubt, run.phase, run.error) == (2, 0, "charge", "ConnectionError: still away")
    assert 8 < pause() <= resuming.SHORTEST_PAUSE
    assert resume() == ""
    make_older(600)
    end_pause()
    script.fails["charge"] = ConnectionError("still away")
    resume()
    assert 598 < pause() < 620
    assert post(client).status_code == 201


def test_an_error_before_the_handler_is_tried_again_too(serve, edge, protect, client, script):
    """It counts as no attempt, but is kept."""
    view = protect(script, mode="phased")
    failing = []

    def guarded(request, *args, **kwargs):
        if failing:
            raise failing[0]
        return view(request, *args, **kwargs)

    guarded.__wrapped__ = view
    serve(guarded)
    interrupt(script, client)
    failing.append(ConnectionError("no directory"))
    said = resume()

    assert "1 to be tried again" in said
    assert (the_run().attempts, the_run().error) == (1, "ConnectionError: no directory")
    failing.clear()
    end_pause()
    assert "1 finished" in resume()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (HttpResponseRedirect("/login/"), "answered with status 302, so its user may not do this"),
        (HttpResponse(status=410), "answered with status 410 before its handler was reached"),
        (HttpResponse(status=200), "answered with status 200 before its handler was reached"),
        (HttpResponse(status=429), "1 to be tried again"),
        (HttpResponse(status=503), "answered with status 503 before its handler"),
    ],
    ids=lambda value: getattr(value, "status_code", None),
)
def test_a_guard_that_answers(serve, protect, client, script, answer, said):
    """What may pass is tried again, anything else is not."""
    view = protect(script, mode="phased")
    closed = []

    def guarded(request, *args, **kwargs):
        return closed[0] if closed else view(request, *args, **kwargs)

    guarded.__wrapped__ = view
    serve(guarded)
    interrupt(script, client)
    closed.append(answer)

    assert said in resume()
    assert the_run().doubt == (0 if answer.status_code in (429, 503) else REFUSED)
    assert (the_run().attempts, effects()) == (1, ["order"])


@pytest.mark.parametrize("status", [400, 429, 503])
def test_an_answer_that_is_not_stored(pay, client, script, status):
    """It may be another one later."""
    pay()
    interrupt(script, client)
    script.status = status

    assert f"is to be tried again: status {status}" in resume()
    assert (the_run().attempts, the_run().doubt) == (2, 0)


def test_the_attempts_are_bounded(pay, client, script):
    """After `max_attempts` the outcome is unsettled; an operator decides."""
    pay(max_attempts=2)
    interrupt(script, client)
    script.fails["charge"] = TimeoutError("for ever")

    assert "is unsettled: TimeoutError: for ever" in resume()
    assert (the_run().attempts, the_run().doubt) == (2, GIVEN_UP)
    assert code(post(client)) == (409, "outcome-unknown")
    assert resume() == ""


def test_a_probe_that_is_unsure_is_asked_again(pay, client, script):
    """Later, until it knows."""
    answers = [UNSURE, {"found": True}]
    script.options["charge"] = {"probe": lambda key: answers.pop(0)}
    pay()
    interrupt(script, client)

    assert "1 to be tried again" in resume()
    end_pause()
    assert "1 finished" in resume()
    assert effects() == ["order", "ship"]


def test_the_time_is_bounded(pay, client, script):
    """After `resume_for` the run is given up, once, with its last error."""
    pay(resume_for=timedelta(hours=1))
    interrupt(script, client)
    PhasedRun.objects.update(resume_until=DatabaseNow())
    with hearing("unsettled") as heard:
        said = resume()

    assert said.startswith("Gave up 1 run in 'default', after `resume_for`.\n")
    assert (the_run().doubt, the_run().error) == (GIVEN_UP, f"TimeoutError: {AWAY}")
    assert "resume_for" in str(heard[0][1]["error"])
    assert code(post(client)) == (409, "outcome-unknown")
    assert (resume(), script.calls) == ("", [])
    assert IdempotencyRecord.objects.get().uncertain_until is None


@pytest.mark.parametrize("how", ["in time", "by the resumer", "by the last error", "by the count"])
def test_a_run_that_was_given_up_may_expire(pay, client, script, how):
    """`uncertain_ttl` from then on; then the key is new, and nothing of the run is left."""
    pay(uncertain_ttl=timedelta(hours=1), max_attempts=1 if how == "by the last error" else 2)
    interrupt(script, client)
    if how == "in time":
        PhasedRun.objects.update(resume_until=DatabaseNow())
    elif how == "by the count":  # its last attempt died
        PhasedRun.objects.update(attempts=2)
        assert code(post(client)) == (409, "outcome-unknown")
    elif how == "by the resumer":
        script.fails["charge"] = TimeoutError(AWAY)
    resume()

    record = IdempotencyRecord.objects.get()
    assert the_run().doubt == GIVEN_UP
    left = record.uncertain_until - interrupted.find("default", bytes(record.digest)).now
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    IdempotencyRecord.objects.update(uncertain_until=DatabaseNow())
    expire()
    script.calls.clear()
    assert post(client).status_code == 201
    assert script.calls == ALL


def test_what_is_left_of_a_run_is_purged(pay, client, script):
    """The stored request of a run that has expired, or whose record is gone, does not outlive it."""
    pay(uncertain_ttl=timedelta(hours=1), max_attempts=1)
    interrupt(script, client)
    interrupt(script, client, key="key-2")
    IdempotencyRecord.objects.filter(key="key-1").update(uncertain_until=DatabaseNow(), expires_at=DatabaseNow())
    call_command("idempotency_purge", verbosity=0)

    assert [bytes(run.digest) for run in PhasedRun.objects.all()] == [bytes(IdempotencyRecord.objects.get().digest)]
    IdempotencyRecord.objects.all().delete()
    call_command("idempotency_purge", verbosity=0)
    assert not PhasedRun.objects.exists()


def test_what_is_stored_of_a_person_is_erased(pay, client, script):
    """With what is unsettled: an interrupted run may have taken effect."""
    pay()
    interrupt(script, client)
    scope = IdempotencyRecord.objects.get().scope
    with pytest.raises(SystemExit):
        call_command("idempotency_erase", "--scope", scope, verbosity=0)
    assert PhasedRun.objects.exists()
    call_command("idempotency_erase", "--scope", scope, "--include-unsettled", verbosity=0)

    assert not IdempotencyRecord.objects.exists()
    assert not PhasedRun.objects.exists()


# --- several ---


def test_a_limit(pay, client, script):
    """The oldest first, by the end of its last attempt."""
    pay()
    for key in ("key-1", "key-2", "key-3"):
        interrupt(script, client, key=key)

    assert "Resumed 2 runs" in resume("--limit", "2")
    assert "Resumed 1 run " in resume()
    assert effects().count("ship") == 3


def test_a_run_that_is_held_is_left_alone(pay, client, script, gate, background):
    """Its client is at it."""
    pay()
    interrupt(script, client)
    script.before["ship"] = gate.wait
    retry = background(post, client)
    gate.reached()

    assert resume() == ""
    gate.open()
    assert retry.result(TIMEOUT).status_code == 201


def test_several_resumers_share_the_work(pay, client, script, background):
    """Each run is resumed once."""
    pay()
    keys = [f"key-{number}" for number in range(12)]
    for key in keys:
        interrupt(script, client, key=key)
    found = [background(resume_all) for _ in range(3)]
    results = [each for future in found for each in future.result(TIMEOUT)]

    assert results.count(Result.FINISHED) >= len(keys)
    assert effects().count("charge") == effects().count("ship") == len(keys)
    assert not PhasedRun.objects.exists()


def resume_all():
    place = locations.database("default")
    return [each.result for each in Resumer().resume_each(place, 100)]


def test_a_resumer_that_comes_second_skips_what_is_held(pay, client, script, gate, background):
    """Also if it had seen the run as due, just before."""
    pay()
    interrupt(script, client)
    place = locations.database("default")
    second = Resumer()
    steps = second.resume_each(place, 10)
    script.before["ship"] = gate.wait
    first = background(resume_all)
    gate.reached()

    assert [each.result for each in steps] == []
    gate.open()
    assert first.result(TIMEOUT) == [Result.FINISHED]


# --- operators ---


def stored():
    """The run as an operator reads it."""
    (found,) = read_rows(locations.database("default"), IdempotencyRecord.objects.using("default"))
    return found


@pytest.mark.parametrize("doubt", [REFUSED, GIVEN_UP])
def test_what_an_operator_lets_resume_is_resumed_at_once(pay, client, user, script, doubt):
    """Whatever it was left for; it does not expire meanwhile."""
    pay(uncertain_ttl=timedelta(hours=1), max_attempts=2)
    interrupt(script, client)
    type(user).objects.update(is_active=doubt == GIVEN_UP)
    script.fails["charge"] = TimeoutError(AWAY)
    resume()
    assert the_run().doubt == doubt
    script.fails.clear()
    type(user).objects.update(is_active=True)
    PhasedRun.objects.update(resume_at=the_run().resume_until)

    assert records.resume(stored())
    assert IdempotencyRecord.objects.get().uncertain_until is None
    assert "1 finished" in resume()
    assert effects() == ALL


def test_what_an_operator_gives_up_may_expire(pay, client, script):
    """As what was attempted too often."""
    pay(uncertain_ttl=timedelta(hours=1))
    interrupt(script, client)

    assert records.give_up(stored())
    assert resume() == ""
    left = IdempotencyRecord.objects.get().uncertain_until - stored().now
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_what_the_resumer_cannot_send_is_shown(pay, client, user, script):
    """With the reason, and who may go on."""
    pay()
    interrupt(script, client)
    user.delete()
    resume()
    out = StringIO()
    call_command("idempotency_unsettled", stdout=out)

    assert "its user is gone" in out.getvalue()
    assert "by a retry alone" in out.getvalue()
