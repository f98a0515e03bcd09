"""Why work is rolled back or kept, where a handler may not expect it, and what the log says of it."""

import logging

import pytest
from django.db import OperationalError, connection, connections
from django.http import HttpResponseRedirect
from rest_framework.views import APIView

from django_idempotency import idempotent
from tests.app.models import Payment, Unique
from tests.app.serving import VENDOR, is_replay, post
from tests.app.views import answer, make_payment

pytestmark = pytest.mark.django_db(transaction=True)

LOGIN = "/accounts/login/"


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]


# --- redirects ---


@pytest.mark.parametrize("location", [LOGIN, f"{LOGIN}?next=/act/", f"http://testserver{LOGIN}", "../accounts/login/"])
def test_a_redirect_to_the_login_is_a_refusal_if_nothing_was_written(protect, client, serve, caplog, location):
    """A retry runs again: by then the caller may have logged in."""
    serve(protect(lambda request: HttpResponseRedirect(location)))

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        first, second = post(client), post(client)

    assert first.status_code == second.status_code == 302
    assert not is_replay(second)
    assert not messages(caplog)


@pytest.mark.parametrize("location", ["/elsewhere/", f"https://sso.example.com{LOGIN}", f"//example.com{LOGIN}"])
def test_another_redirect_is_an_answer(protect, client, serve, location):
    """The path alone does not make it the project's login."""
    serve(protect(lambda request: HttpResponseRedirect(location)))

    assert post(client).status_code == 302
    assert is_replay(post(client))


@pytest.mark.parametrize("url", ["no-such-name", None, 5])
def test_a_login_url_that_cannot_be_resolved_breaks_nothing(protect, client, serve, settings, url):
    """A project without a login may have left the setting as it was."""
    settings.LOGIN_URL = url

    def handler(request):
        make_payment(request)
        return HttpResponseRedirect("/receipt/")

    serve(protect(handler))

    assert post(client).status_code == 302
    assert is_replay(post(client))
    assert Payment.objects.count() == 1


# --- what the log says ---


def test_log_lines_name_operation_and_status(protect, client, serve, caplog):
    """The digest of what was rolled back can be looked up nowhere."""
    serve(protect(lambda request: (make_payment(request), answer(request, {}, 409))[1]))

    with caplog.at_level(logging.INFO, "django_idempotency"):
        post(client)

    warning, forgot = messages(caplog)
    for message in (warning, forgot):
        assert "(POST act/)" in message
        assert "status 409" in message
    assert "`should_store`" in warning


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has no SET TRANSACTION")
def test_set_transaction_gets_a_note_with_the_remedy(protect, client, serve):
    """It must be the first statement of a transaction, and the claim was."""

    def handler(request):
        with connection.cursor() as cursor:
            cursor.execute("/* strict */ SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        return make_payment(request)

    serve(protect(handler))

    response = post(client)

    assert response.status_code == 500
    error = response.exc_info[1]
    assert isinstance(error, OperationalError) or VENDOR == "postgresql"
    assert "the claim of its key" in "".join(error.__notes__)
    assert not Payment.objects.exists()


LOCKS = {
    "postgresql": ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
    "mariadb": ("SELECT GET_LOCK('one', 1)", "SELECT RELEASE_LOCK('one')"),
    "mysql": ("SELECT GET_LOCK('one', 1)", "SELECT RELEASE_LOCK('one')"),
    "sqlite": (),
}


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has no locks of a session")
def test_a_lock_that_is_released_before_commit_is_warned_of_once(protect, client, serve, caplog, edge):
    """Another request may take it and not see this one's work."""

    def handler(request):
        with connection.cursor() as cursor:
            for statement in LOCKS[VENDOR]:
                cursor.execute(statement)
        return make_payment(request)

    serve(protect(handler, operation=f"locked {edge}"))

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        assert [post(client, key=key).status_code for key in ("one", "two")] == [201, 201]

    [message] = messages(caplog)
    assert f"(locked {edge}) released a lock of its database session before COMMIT" in message


# --- other databases ---


def test_an_alias_without_its_driver_breaks_no_request(protect, client, serve, monkeypatch):
    """A database that the request never touches."""
    monkeypatch.setitem(connections.settings, "missing", {**connections.settings["default"], "ENGINE": "no.such"})
    serve(protect(make_payment))

    assert post(client).status_code == 201
    assert is_replay(post(client))


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.parametrize("opened", ["before", "meanwhile"])
def test_a_write_to_a_connection_that_comes_up_is_seen(protect, client, serve, caplog, opened):
    """Whether its connection was there or is opened by the handler."""
    connections["other"].close()
    if opened == "before":
        connections["other"].ensure_connection()

    def handler(request):
        Unique.objects.using("other").create(name="one")
        return make_payment(request)

    serve(protect(handler))

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        assert post(client).status_code == 201

    [message] = messages(caplog)
    assert "wrote to database 'other' while its record is in 'default'" in message
    assert "`using`" in message


# --- finalize_response ---


def test_what_finalize_response_writes_about_a_refusal_stays(api, serve, atomic_requests):
    """Of an answer that is kept it commits with the work; for a replay it is not called: the answer is final."""

    class Tracked(APIView):
        def finalize_response(self, request, response, *args, **kwargs):
            response = super().finalize_response(request, response, *args, **kwargs)
            Unique.objects.create(name=f"{Unique.objects.count()}: {response.status_code}")
            return response

        @idempotent
        def post(self, request):
            return make_payment(request) if "X-Pay" in request.headers else answer(request, {}, 422)

    serve(Tracked.as_view())

    assert post(api).status_code == 422
    first, second = (post(api, headers={"X-Pay": "1"}) for _ in range(2))

    assert first.status_code == 201
    assert is_replay(second)
    assert [row.name for row in Unique.objects.order_by("pk")] == ["0: 422", "1: 201"]
