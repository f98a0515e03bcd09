"""`assert_idempotent` passes what is right, and finds each mistake of the gallery by name."""

import pytest
from django.db import connection
from django.test import Client

from django_idempotency import once
from django_idempotency.testing import Call, NotProved, assert_idempotent
from tests.app.models import Payment
from tests.kit.gallery import WRONG, mail

pytestmark = pytest.mark.usefixtures("gallery")
DATABASES = ["default", "other"]
both = pytest.mark.parametrize(
    "committing",
    [
        pytest.param(False, marks=pytest.mark.django_db(databases=DATABASES)),
        pytest.param(True, marks=pytest.mark.django_db(databases=DATABASES, transaction=True)),
    ],
)

# What its message must name, for each wrong view.
TOLD = {
    "other-database": ["rolled back", "database 'other', table app_payment: 1 row added", "gallery.py", "`using`"],
    "own-connection": ["rolled back", "table app_unique: 1 row added", "beside"],
    "in-a-thread": ["rolled back", "database 'other', table app_payment", "a thread was started meanwhile: payer"],
    "e-mail": ["rolled back", "'You have paid' to payer@example.com"],
    "in-the-cache": ["rolled back", "paid' of cache 'default'", "`cache:"],
    "commits-by-itself": ["rolled back", "answered 409", "outcome-unknown", "leave the transaction alone"],
    "unprotected": ["took effect twice", "table app_payment: 1 row added", "INSERT INTO app_payment", "@idempotent"],
    "swallowed": ["rolled back, but its client got 200", "swallows exceptions"],
    "swallowed-inside": ["answered 500", "TransactionBroken"],
    "counter-in-the-answer": ["got another answer", '"served": '],
    "counter-in-a-header": ["got another answer", "header x-receipt: "],
    "before-the-handler": ["replayed, but it changed something", "table app_payment", "in before"],
    "hook-before-the-handler": ["replayed, but it changed something", "in an on_commit hook", "reference='hook'"],
    "touching-the-user": ["replayed, but it changed something", "table auth_user: 1 row changed", "first_name"],
    "e-mail-afterwards": ["replayed, but it changed something", "'You have paid'"],
    "one-scope": ["without credentials got the first user's answer", "sent by another user got", "`scope`"],
    "no-fingerprint": ["another payload got the first request's answer", "`fingerprint`"],
    "kept-by-nobody": ["not stored and its work was rolled back", "`should_store`"],
    "key-taken-as-it-is": ["A malformed key", "answered 201"],
}
NEED_COMMITS = {"own-connection", "in-a-thread", "commits-by-itself"}  # or their work is on another connection


def call(name: str, user: object = None, **more: object) -> Call:
    return Call.post(f"/{name}/", {"amount": 10}, user=user, **more)


def test_the_gallery_is_complete():
    """Each wrong view has what its message must name."""
    assert TOLD.keys() == {*WRONG}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.django_db(databases=DATABASES, transaction=True)
def test_each_wrong_view_is_caught(name, user, other_user, vendor):
    """The failure names what ran twice, where, and what to do."""
    if vendor == "sqlite" and name == "own-connection":
        pytest.skip("SQLite has one writer: a second connection waits for the first")
    with pytest.raises(NotProved) as caught:
        assert_idempotent(call(name, user), other_user=other_user)

    message = str(caught.value)
    assert f"POST /{name}/" in message
    for told in TOLD[name]:
        assert told in message
    assert len(caught.value.findings) <= 3, message


@pytest.mark.django_db(databases=DATABASES)
def test_an_import_of_the_engine_by_name_does_not_blind_it(monkeypatch, user):
    """It hooks in at the store, which every way into the engine reaches."""
    from django_idempotency.engine.run import run

    monkeypatch.setattr("django_idempotency.protection.views.run", lambda *args, **kwargs: run(*args, **kwargs))

    assert (
        "a retry after an exception runs, and nothing of the attempt was left"
        in assert_idempotent(call("right", user)).proved
    )
    with pytest.raises(NotProved, match="rolled back, but something of it was left"):
        assert_idempotent(call("e-mail", user))


@pytest.mark.parametrize("name", sorted({*WRONG} - NEED_COMMITS))
@pytest.mark.django_db(databases=DATABASES)
def test_each_is_caught_in_a_test_case(name, user, other_user):
    """In a transaction that is never committed, too: hooks are run as a commit would."""
    with pytest.raises(NotProved) as caught:
        assert_idempotent(call(name, user), other_user=other_user)

    for told in TOLD[name]:
        assert told in str(caught.value)


@both
def test_a_middleware_is_caught(settings, user, committing):
    """What is done around every view is found with the line that does it; a log of requests can be ignored."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.kit.gallery.visits"]
    with pytest.raises(NotProved, match=r"replayed, but it changed something(?s:.*)gallery\.py:\d+ in visit") as caught:
        assert_idempotent(call("right", user))

    assert len(caught.value.findings) == 1
    assert_idempotent(call("right", user), ignore=["app_unique"])


@both
def test_right_views_pass(user, other_user, committing):
    """Those that make keys a must and those that do not, of each kind; the proof says what was tried."""
    assert connection.in_atomic_block is not committing
    proof = assert_idempotent(call("right", user), other_user=other_user)

    assert len(proof.proved) == 6
    assert [told.split(":")[0] for told in proof.not_tried] == ["a request without a key, which the view lets run"]
    assert "proved: a duplicate gets the same answer" in str(proof)

    proof = assert_idempotent(call("right-drf", user), other_user=other_user, required=True)
    assert len(proof.proved) == 7
    assert not proof.not_tried

    assert_idempotent(call("right-class", user), other_user=other_user, other_payload={"amount": 11})


@pytest.mark.django_db(databases=DATABASES)
@pytest.mark.parametrize(
    ("path", "tried"),
    [
        ("/right-forbidden/", True),
        ("/right-hidden/", True),
        ("/right-but-breaks/", False),
        ("/nowhere/", False),
        ("/right", False),
    ],
)
def test_only_what_proves_something_is_called_a_proof(path, tried, user, other_user):
    """A stranger's 500, and a 404 or a redirect from a wrong URL, say nothing about the stored answer."""
    own = path if path.startswith("/right-") else "/right/"
    proof = assert_idempotent(
        Call.post(own, {"amount": 10}, user=user), other_user=Call.post(path, {"amount": 10}, user=other_user)
    )

    who = "the same key sent by another user"
    assert (f"{who} does not get the first user's answer" in proof.proved) is tried
    assert any(each.startswith(f"{who}: it was answered ") for each in proof.not_tried) is not tried


@pytest.mark.django_db
def test_a_refusal_by_the_handler_is_no_proof(user):
    """The second sign-up with one name is the handler's own 400, with or without a key."""
    proof = assert_idempotent(call("signs-up", user), required=True)

    assert any(each.startswith("a request without a key: it was answered 400") for each in proof.not_tried)


@pytest.mark.django_db
def test_a_key_that_reaches_the_handler_was_not_refused(user):
    """Whatever the handler answers then."""
    with pytest.raises(NotProved, match=r"malformed key .* by the handler, which ran"):
        assert_idempotent(call("key-taken-as-it-is", user))


@both
def test_the_same_answer_is_no_leak(user, other_user, committing):
    """Another user's request may come to what the first one's came to; only a replay is the first one's answer."""
    proof = assert_idempotent(call("right-confirmation", user), other_user=other_user)

    assert "the same key sent by another user does not get the first user's answer" in proof.proved


@pytest.mark.django_db
def test_another_callers_event_is_no_replay():
    """A function's result has no mark: it is a replay where it is the same and nothing was changed."""

    def on_paid(tenant):
        @once("kit.tenants", key=lambda event: event["id"], scope=lambda event: tenant)
        def paid(event):
            Payment.objects.create(amount=10)
            return {"paid": True}

        return lambda key: paid({"id": key})

    assert_idempotent(on_paid("one"), other_user=on_paid("other"))
    with pytest.raises(NotProved, match="sent by another user got the first user's answer"):
        assert_idempotent(on_paid("one"), other_user=on_paid("one"))


@both
def test_what_is_kept_in_a_cache_is_no_effect(user, committing):
    """Of what a request keeps there only what each request changes counts."""
    assert_idempotent(call("right-cached", user))


@pytest.mark.django_db(databases=DATABASES, transaction=True)
def test_a_transaction_around_the_view_is_no_matter(user, atomic_requests):
    """`ATOMIC_REQUESTS` rolls back what fails, as ever."""
    assert_idempotent(call("right-drf", user))
    with pytest.raises(NotProved, match="replayed, but it changed something"):
        assert_idempotent(call("before-the-handler", user))


@pytest.mark.django_db
def test_the_key_may_travel_in_the_payload():
    """A webhook's id: the data is made for each key, and there is no header."""
    webhook = Call.post("/right-webhook/", lambda key: {"event": key}, content_type="application/x-www-form-urlencoded")
    webhook = webhook.changed(header=None)

    def other(key):
        return {"event": key, "amount": 1}

    for payload in (other, webhook.changed(data=other), lambda key: webhook.changed(data=other)(key)):
        proof = assert_idempotent(webhook, other_payload=payload)
        assert "the same key with another payload is refused" in proof.proved
    with pytest.raises(NotProved, match="another payload got the first request's answer"):
        assert_idempotent(webhook, other_payload=lambda key: {"event": key})


@pytest.mark.django_db
def test_any_callable_is_a_call(user, other_user, api, other_api):
    """Django's client, which raises what the view raises, and DRF's, which has the user's token."""
    client, other = Client(), Client()
    client.force_login(user)
    other.force_login(other_user)

    def pay(client, key, amount=10):
        return client.post(
            "/right/", {"amount": amount}, content_type="application/json", headers={"Idempotency-Key": key}
        )

    proof = assert_idempotent(
        lambda key: pay(client, key),
        other_payload=lambda key: pay(client, key, 11),
        other_user=lambda key: pay(other, key),
        required=False,
    )
    assert len(proof.proved) == 6
    assert not proof.not_tried
    # The token's user is not known to the kit.
    assert_idempotent(
        lambda key: api.post("/right-drf/", {"amount": 1}, headers={"Idempotency-Key": key}),
        other_user=lambda key: other_api.post("/right-drf/", {"amount": 1}, headers={"Idempotency-Key": key}),
    )


@pytest.mark.django_db
def test_a_client_of_ones_own(user, other_user):
    """A call may be sent by a client that is logged in; another user is then another client, or a user."""
    client, other = Client(), Client()
    client.force_login(user)
    other.force_login(other_user)

    assert len(assert_idempotent(call("right", client=client), other_user=other).proved) == 5
    assert len(assert_idempotent(call("right", client=lambda: client), other_user=other_user).proved) == 5


@pytest.mark.django_db
def test_an_event_is_a_call():
    """What `@once` protects takes no request, and refuses by its exceptions."""

    @once("kit.paid", key=lambda event: event["id"], fingerprint=lambda event: b"%d" % event["amount"])
    def on_paid(event):
        payment = Payment.objects.create(amount=event["amount"])
        return {"payment": payment.pk}

    proof = assert_idempotent(
        lambda key: on_paid({"id": key, "amount": 10}), other_payload=lambda key: on_paid({"id": key, "amount": 11})
    )

    assert "the same key with another payload is refused" in proof.proved


@pytest.mark.django_db
def test_a_store_outside_the_database_rolls_nothing_back(settings, user):
    """A retry after an exception is not tried then; a duplicate is."""
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}

    proof = assert_idempotent(call("right-outside", user), other_user=None)

    assert "a duplicate gets the same answer and changes nothing" in proof.proved
    assert any("rolls nothing back" in told for told in proof.not_tried)
    with pytest.raises(NotProved, match="took effect twice"):
        assert_idempotent(call("unprotected", user))


def test_a_project_may_have_no_database(settings):
    """What is compared is then its e-mails and caches."""
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}
    settings.MIDDLEWARE = []
    runs = []

    @once("kit.sent", key=str, store="memory")
    def send(event):
        mail("Sent")
        runs.append(event)
        return len(runs)

    assert_idempotent(send, using=())
    assert len(runs) == 1
    with pytest.raises(NotProved, match="took effect twice"):
        assert_idempotent(lambda key: mail("Sent"), using=())


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("right", {"required": True}, "without a key was answered 201, and not 400"),
        ("right-drf", {"required": False}, "without a key was answered 400"),
        ("right", {"other_payload": {"amount": 10}}, "another payload got the first request's answer"),
        ("right", {"ignore": ["app_payment"]}, "changed nothing that can be seen"),
        ("right", {"key": lambda: "not a key,"}, "answered 400"),
        ("right", {"key": "not a key,"}, "answered 400"),
        ("nowhere", {}, "answered 404"),
    ],
)
def test_what_is_expected_is_asked_for(name, options, told, user):
    """Each option can fail, and what cannot be told is a failure as well."""
    with pytest.raises(NotProved, match=told):
        assert_idempotent(call(name, user), **options)


@pytest.mark.django_db(databases=DATABASES)
@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("e-mail", "mail"),
        ("e-mail-afterwards", "mail"),
        ("in-the-cache", "cache:pai?"),
        ("other-database", "app_pay*"),
        ("counter-in-a-header", "header:X-Receipt"),
        ("before-the-handler", "app_payment"),
        ("touching-the-user", "auth_user.first_name"),
    ],
)
def test_what_is_ignored_is_no_effect(name, ignored, user):
    """Each kind of effect can be named, by a pattern where it has names."""
    assert_idempotent(call(name, user), ignore=[ignored], effect=not ignored.startswith("app_pay"))


@pytest.mark.django_db
def test_a_call_that_is_used_wrongly():
    """A callable cannot be given another payload or user by the kit."""
    with pytest.raises(TypeError, match="other_user"):
        assert_idempotent(lambda key: call("right")(key), other_user=object())


@pytest.mark.django_db
def test_nothing_of_the_interruption_stays(user, caplog):
    """The request that was let fail is not logged, and the next one is not let fail."""
    assert_idempotent(call("right", user))

    assert "Interrupted" not in caplog.text
    assert call("right", user)("key-1").status_code == 201
