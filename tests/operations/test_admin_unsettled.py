"""The admin's page of unsettled outcomes, of all databases and stores, and what an operator decides about one."""

from datetime import timedelta
from html import unescape

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db import OperationalError
from django.test import Client
from django.urls import reverse

from django_idempotency.admin import unsettled
from django_idempotency.core.decision import Claimed, Unsettled
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import records
from django_idempotency.stores.database import DatabaseStore
from tests.operations.pages import decide, make_record, make_unsettled, page, text
from tests.operations.redis_store import identity

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.operations.admin_urls")]

ANY_DATABASE = pytest.mark.django_db(databases=["default", "other"])
SCRIPT = "<img src=x onerror=alert(1)>"
ANSWER = {"choice": "store-answer", "status": "201", "content_type": "application/json", "body": '{"id":7}'}


def address(attempt):
    return f"{identity(attempt)}@store:redis"


# --- the page ---


@ANY_DATABASE
def test_each_database_and_store_has_its_part(admin_client, keys):
    """What was asked, with a way to the record and to the decision; nothing that is settled or in flight."""
    row, other = make_unsettled("row-1"), make_unsettled("row-2", using="other")
    make_record("completed-1")
    make_unsettled("expired-1", ttl=timedelta(seconds=-1))
    attempt = keys.attempt("redis-1", scope="auth.user:7", request_id="request-9")
    keys.unsettle(attempt)
    keys.claim(keys.attempt("flying-1"))
    keys.complete(keys.attempt("completed-2"))

    response = admin_client.get(page("unsettled"))

    shown = text(response)
    found = {section["alias"]: [each["shown"].key for each in section["records"]] for section in sections(response)}
    assert found == {"default": ["row-1"], "other": ["row-2"], "redis": ["redis-1"]}
    for part in ("auth.user:7", "POST charge/", "shop.example", "request-9", "Store “redis”", "Database “other”"):
        assert part in shown
    for of in (row, other, address(attempt)):
        assert f'href="{page("change", of)}"' in shown
        assert f'href="{page("settle", of)}"' in shown


def sections(response):
    return response.context["sections"]


def test_the_oldest_first_and_no_more_than_fit(admin_client, monkeypatch):
    """The page says that there are more."""
    monkeypatch.setattr(unsettled, "LISTED", 2)
    now = make_unsettled("new").executed_at
    for days, key in [(1, "old"), (2, "oldest")]:
        make_unsettled(key, executed_at=now - timedelta(days=days))

    response = admin_client.get(page("unsettled"))

    [section] = [each for each in sections(response) if each["alias"] == "default"]
    assert [each["shown"].key for each in section["records"]] == ["oldest", "old"]
    assert "These are the oldest 2; there are more." in text(response)


def test_lists_and_dashboard_lead_there(admin_client, django_user_model):
    """The dashboard does for those who may see it."""
    link = f'href="{page("unsettled")}"'

    assert link in text(admin_client.get(page("changelist")))
    assert link in text(admin_client.get(page("dashboard")))


def test_a_dashboard_of_counts_alone_leads_nowhere(operator):
    """Who may see counts and no records is not sent to a page that refuses."""
    client = operator("view_decisioncount", view=False)

    assert page("unsettled") not in text(client.get(page("dashboard")))


def test_the_page_needs_the_permission_to_view(operator):
    assert operator(view=False).get(page("unsettled")).status_code == 403
    assert Client().get(page("unsettled")).status_code == 302


def test_who_may_not_settle_is_not_led_to_it(operator, keys):
    record = make_unsettled()

    shown = text(operator().get(page("unsettled")))

    assert page("change", record) in shown
    assert page("settle", record) not in shown


def test_markup_is_text(admin_client, keys):
    """From a client, from a view, or from whoever writes to the server."""
    make_unsettled("row-1", scope=SCRIPT, operation=SCRIPT, request=f"POST {SCRIPT} {SCRIPT}", request_id=SCRIPT)
    keys.unsettle(keys.attempt(scope=SCRIPT, operation=SCRIPT, request=f"POST {SCRIPT} {SCRIPT}", request_id=SCRIPT))

    shown = text(admin_client.get(page("unsettled")))

    assert SCRIPT not in shown
    assert unescape(shown).count(SCRIPT) >= 8


@ANY_DATABASE
@pytest.mark.parametrize("name", ["unsettled", "changelist"])
def test_a_store_that_does_not_answer_is_said(admin_client, keys, away, name, caplog):
    """And what the others have is shown; the log has the error."""
    attempt = keys.attempt()
    keys.unsettle(attempt)

    response = admin_client.get(page(name), {"q": identity(attempt)})

    assert response.status_code == 200
    assert "does not answer" in text(response)
    assert page("change", address(attempt)) in text(response)
    told = [message for message in caplog.messages if "does not answer" in message]
    assert len(told) == 1
    assert told[0].startswith("The store 'away' does not answer: ")


@ANY_DATABASE
def test_a_database_that_does_not_answer_is_said(admin_client, monkeypatch):
    """And what another has is shown."""
    make_unsettled("row-1")
    unsettled = DatabaseStore.unsettled

    def of_default(store, using, limit):
        if using == "other":
            raise OperationalError("gone")
        return unsettled(store, using, limit)

    monkeypatch.setattr(DatabaseStore, "unsettled", of_default)
    response = admin_client.get(page("unsettled"))

    assert text(response).count("It does not answer") == 1
    assert {section["alias"]: section["is_away"] for section in sections(response)} == {"default": False, "other": True}
    assert "row-1" in text(response)


# --- the records of a store ---


def test_a_record_of_a_store_has_a_page(admin_client, keys):
    """The same as a row has: what was asked and answered, and its store."""
    attempt = keys.attempt("key-1")
    keys.complete(attempt)

    shown = text(admin_client.get(page("change", address(attempt))))

    for part in ("key-1", "auth.user:1", "POST charge/", "shop.example", "201 Created", "Location", "redis", "01" * 32):
        assert part in shown
    assert '"amount": 10' in unescape(shown)
    download = admin_client.get(page("body", address(attempt)))
    assert download.content == b'{"id":1,"amount":10}'
    assert download.headers["Content-Type"] == "application/octet-stream"


def test_headers_and_bodies_of_a_store_need_a_permission(operator, keys):
    """As a row's."""
    attempt = keys.attempt()
    keys.complete(attempt)
    client = operator()

    shown = text(client.get(page("change", address(attempt))))

    assert "201 Created" in shown
    assert "Location" not in shown
    assert "amount" not in shown
    assert client.get(page("body", address(attempt))).status_code == 403


@pytest.mark.parametrize("name", ["change", "history", "body", "free", "settle"])
def test_without_the_permission_to_view_a_store_is_not_asked(operator, keys, away, name):
    """Not even its being away is told."""
    client = operator("view_stored_response", "free_key", "settle_outcome", view=False)

    for alias in ("redis", "away"):
        assert client.get(page(name, f"{'0' * 64}@store:{alias}")).status_code == 403


@pytest.mark.parametrize("name", ["change", "body", "free", "settle"])
def test_an_address_that_leads_nowhere_leads_back(admin_client, keys, away, name):
    """Nothing there, no such store, and a store that does not answer; none is an error of the server."""

    def said(of):
        return unescape(text(admin_client.get(page(name, of), follow=True)))

    lost = "exist. Perhaps it was deleted?" if name == "change" else "There is no record of"
    assert lost in said(f"{'0' * 64}@store:redis")
    assert lost in said(f"{'0' * 64}@store:missing")
    assert lost in said(f"{'0' * 64}@store:default")  # which has a table
    assert "The store “away” does not answer." in said(f"{'0' * 64}@store:away")


def test_an_identity_is_found_in_a_store(admin_client, keys):
    """By the search, which says where; a key is not, and the help says so."""
    attempt = keys.attempt("key-1")
    keys.complete(attempt)
    link = page("change", address(attempt))

    for typed in (identity(attempt), f" {identity(attempt).upper()} "):
        assert link in text(admin_client.get(page("changelist"), {"q": typed}))
    shown = text(admin_client.get(page("changelist"), {"q": "key-1"}))
    assert link not in shown
    assert "Stores outside the databases are asked for identities alone." in shown
    assert "has a record" not in text(admin_client.get(page("changelist"), {"q": "0" * 64}))


def test_markup_in_a_store_is_text(admin_client, keys):
    attempt = keys.attempt(scope=SCRIPT, operation=SCRIPT, request=f"POST {SCRIPT} {SCRIPT}", request_id=SCRIPT)
    keys.unsettle(attempt)

    for name in ("change", "settle", "history"):
        shown = text(admin_client.get(page(name, address(attempt))))
        assert SCRIPT not in shown
        assert name == "history" or SCRIPT in unescape(shown)


def test_what_is_not_the_stores_is_said_to_be_so(admin_client, keys):
    """Nothing is made up for it, no answer can be stored in it, and its key can be freed."""
    attempt = keys.attempt()
    keys.plant(attempt, SCRIPT)

    for name in ("change", "settle"):
        shown = text(admin_client.get(page(name, address(attempt))))
        assert "was not written by this package" in shown
        assert ", 1970" not in shown
        assert ", 9999" not in shown
        assert "store-answer" not in shown
    assert "Please correct" in text(decide(admin_client, "settle", address(attempt), **ANSWER))
    assert isinstance(keys.found(attempt), Unsettled)
    assert "The key is free" in text(decide(admin_client, "settle", address(attempt), choice="run-again"))
    assert isinstance(keys.found(attempt), Claimed)


def test_a_completed_record_of_a_store_is_freed(admin_client, keys):
    """And its history stays."""
    attempt = keys.attempt()
    keys.complete(attempt)
    shown = text(admin_client.get(page("change", address(attempt))))
    assert page("free", address(attempt)) in shown

    response = decide(admin_client, "free", address(attempt), reason="Refunded, ticket 17.")

    assert "The key is free" in text(response)
    assert isinstance(keys.found(attempt), Claimed)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.action_flag) == (address(attempt), DELETION)
    assert entry.object_repr == f"{identity(attempt)[:12]}… POST charge/"
    assert "key-1" not in f"{entry} {entry.change_message} {entry.object_repr}"
    assert "Refunded, ticket 17." in text(admin_client.get(page("history", address(attempt))))
    assert entry.object_repr in text(admin_client.get(reverse("admin:index")))


# --- decisions ---


@pytest.fixture(params=["database", "redis"])
def place(request):
    """Where the record is that is decided about."""
    return request.param


@pytest.fixture
def made(place, keys):
    """An unsettled record there: its address, and what is stored of it by now, or None."""
    if place == "database":
        row = make_unsettled()
        return row, lambda: IdempotencyRecord.objects.first()
    attempt = keys.attempt()
    keys.unsettle(attempt)
    return address(attempt), lambda: keys.store.find(None, attempt.identity.digest)


def test_an_answer_is_stored(admin_client, admin_user, made):
    """The record is completed by it, and the log has who, what and why."""
    of, stored = made

    response = decide(admin_client, "settle", of, **ANSWER | {"body": '{\r\n"id":7}'}, reason="Paid, ticket 18.")

    assert "The answer is stored" in text(response)
    record = stored().record
    assert (record.status, record.reason, record.body) == (201, "Created", b'{\n"id":7}')
    assert dict(record.headers)["Content-Type"] == "application/json"
    entry = LogEntry.objects.get()
    assert (entry.user, entry.action_flag) == (admin_user, CHANGE)
    assert "status 201" in entry.change_message
    assert entry.change_message.endswith("Reason: Paid, ticket 18.")
    assert "Paid, ticket 18." in text(admin_client.get(page("history", of)))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"status": ""}, "An answer needs a status."),
        ({"status": "199"}, "greater than or equal to 200"),
        ({"body": "{"}, "The body is not JSON"),
        ({"content_type": ""}, "A body needs a content type"),
        ({"body": "a\x00b"}, "Null characters are not allowed."),
        ({"reason": " "}, "This field is required."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_answer_that_no_handler_could_give(admin_client, wrong, word):
    """The form says what is wrong, keeps what was typed, and nothing is stored."""
    response = decide(admin_client, "settle", make_unsettled(), **ANSWER | wrong)

    assert word in unescape(text(response))
    assert IdempotencyRecord.objects.get().status == 0
    assert not LogEntry.objects.exists()


def test_the_result_of_an_event_is_json(admin_client):
    record = make_unsettled(request="")

    assert "The result of an event is JSON" in text(decide(admin_client, "settle", record, **ANSWER | {"body": ""}))
    assert "The answer is stored" in text(decide(admin_client, "settle", record, **ANSWER | {"body": "null"}))


def test_a_post_from_elsewhere_is_refused(admin_user, keys):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    attempt = keys.attempt()
    keys.unsettle(attempt)

    assert client.post(page("settle", address(attempt)), ANSWER | {"reason": "x"}).status_code == 403
    assert isinstance(keys.found(attempt), Unsettled)


def test_who_comes_after_a_decision_is_told(admin_client, made):
    """The second's page was open meanwhile: whatever it decides, the first's answer stays."""
    of, stored = made
    hidden = admin_client.get(page("settle", of)).context["adminform"].form.initial
    decide(admin_client, "settle", of, **ANSWER)

    for data in ({"choice": "run-again"}, ANSWER | {"body": "{}"}):
        response = admin_client.post(page("settle", of), {**hidden, **data, "reason": "x"}, follow=True)
        assert "There is nothing to decide: the record is now completed." in text(response)
    assert bytes(stored().body) == b'{"id":7}'
    assert LogEntry.objects.count() == 1


def test_somebody_was_faster(admin_client, made, monkeypatch):
    """Another operator frees the key at the last moment: there is nothing to log."""
    of, _stored = made
    free = records.free

    def second(record, **kwargs):
        free(record, **kwargs)
        return free(record, **kwargs)

    monkeypatch.setattr(records, "free", second)

    assert "another user was faster" in text(decide(admin_client, "settle", of, choice="run-again"))
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("data", [{"choice": "run-again"}, ANSWER], ids=lambda data: data["choice"])
def test_what_is_in_flight_again_at_the_last_moment_is_left_alone(admin_client, keys, data, monkeypatch):
    """The store itself refuses, and nothing is logged."""
    attempt = keys.attempt()
    claim = keys.freeze(attempt)
    name = "settle" if data is ANSWER else "free"
    change = getattr(records, name)

    def renewed(*args, **kwargs):
        keys.store.renew(attempt, claim, 60)
        return change(*args, **kwargs)

    monkeypatch.setattr(records, name, renewed)
    response = decide(admin_client, "settle", address(attempt), **data)

    assert "Nothing was done: its request is in flight again" in text(response)
    assert not LogEntry.objects.exists()
    assert keys.store.renew(attempt, claim, 60)


def test_a_failing_log_frees_nothing_in_a_store(admin_client, keys, monkeypatch):
    """No key is freed without a trace, though the store knows of no transaction."""
    attempt = keys.attempt()
    keys.unsettle(attempt)

    def fail(**kwargs):
        raise RuntimeError("no log")

    monkeypatch.setattr(LogEntry.objects, "create", fail)
    with pytest.raises(RuntimeError, match="no log"):
        decide(admin_client, "settle", address(attempt), choice="run-again")

    assert isinstance(keys.found(attempt), Unsettled)


def test_a_store_that_goes_away_leaves_a_doubt_in_the_log(admin_client, keys, monkeypatch):
    """Its answer is lost, and it may have done it: the page and the history say that nobody knows."""
    attempt = keys.attempt()
    keys.unsettle(attempt)

    def free(*args, **kwargs):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(records, "free", free)
    response = decide(admin_client, "settle", address(attempt), choice="run-again", reason="Nothing there.")

    assert "The store “redis” does not answer." in text(response)
    entry = LogEntry.objects.get()
    assert entry.action_flag == CHANGE
    assert entry.change_message.startswith("The store did not answer, so it is not known whether this was done: ")
    assert "Nothing there." in entry.change_message
