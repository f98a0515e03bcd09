"""What the table of decisions promises: replays, refusals, rivals in flight, and a store that does not answer."""

import json
import threading
import time
from datetime import timedelta

import pytest
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AnonymousUser
from django.db import OperationalError, connection, connections
from django.test import Client
from rest_framework.permissions import BasePermission
from rest_framework.test import APIClient
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from django_idempotency import idempotent, signals
from django_idempotency.engine import run as engine
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import (
    POOLED,
    TIMEOUT,
    VENDOR,
    authenticated_by,
    drf,
    end_own_connection,
    expire,
    is_replay,
    plain,
    post,
)
from tests.app.views import answer, make_payment
from tests.conftest import authenticated

# --- replay or reuse ---


@pytest.mark.django_db
def test_a_retry_is_replayed_as_often_as_it_comes(protect, client, serve):
    """The same status and bytes, marked as a replay, and one effect."""
    serve(protect(make_payment))

    first, *others = (post(client) for _ in range(4))

    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first
    for other in others:
        assert (other.status_code, other.content) == (201, first.content)
        assert other["Idempotency-Replayed"] == "true"
    assert Payment.objects.count() == 1


OTHER_REQUESTS = {
    "payload": {"data": {"amount": 11}},
    "spelling of the payload": {"content": b'{"amount":10 }'},
    "query": {"url": "/act/?page=2"},
    "order of the query": {"url": "/act/?b=2&a=1"},
    "If-Match": {"headers": {"If-Match": '"2"'}},
    "If-Unmodified-Since": {"headers": {"If-Unmodified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"}},
    "media type": {"content": b'{"amount": 10}', "content_type": "application/vnd.api+json"},
    "empty body": {"content": b""},
    "host": {"headers": {"Host": "tenant-b.example"}},
}


@pytest.mark.django_db
@pytest.mark.parametrize("other", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_a_key_for_another_request_is_refused(edge, client, serve, other):
    """Whatever part of its meaning differs: 422, nothing runs, and the first request's answer is not given away."""
    serve({"drf": drf, "plain": plain}[edge](make_payment))

    def send(url="/act/?a=1&b=2", content=b'{"amount": 10}', content_type="application/json", data=None, headers=None):

        return client.generic(
            "POST",
            url,
            content if data is None else json.dumps(data).encode(),
            content_type,
            headers={"Idempotency-Key": "k", "Host": "tenant-a.example", **(headers or {})},
        )

    assert send().status_code == 201
    response = send(**other)

    assert response.status_code == 422
    assert response.json()["code"] == "key-reused"
    assert "Retry-After" not in response
    assert Payment.objects.count() == 1
    assert is_replay(send())


@pytest.mark.django_db
def test_another_path_of_one_route_is_another_request(api):
    """The operation is the route, so one key for two accounts is refused instead of paid twice."""
    assert post(api, url="/method/1/").status_code == 201
    assert post(api, url="/method/2/").json()["code"] == "key-reused"
    assert is_replay(post(api, url="/method/1/"))


@pytest.mark.django_db
def test_the_parameters_of_a_media_type_do_not_count(protect, client, serve):
    """`charset=utf-8` or not: the bytes are the same."""
    serve(protect(make_payment))
    body = b'{"amount": 10}'

    for content_type in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        response = client.generic("POST", "/act/", body, content_type, headers={"Idempotency-Key": "k"})
        assert response.status_code == 201

    assert Payment.objects.count() == 1


@pytest.mark.django_db
def test_headers_that_vary_between_retries_do_not_count(protect, client, serve):
    """Another Accept, another User-Agent, another trace: the same request."""
    serve(protect(make_payment))

    first = post(client, headers={"Accept": "application/json", "User-Agent": "one", "Traceparent": "00-1"})
    second = post(client, headers={"Accept": "*/*", "User-Agent": "two", "Traceparent": "00-2"})

    assert is_replay(second)
    assert first.content == second.content


@pytest.mark.django_db
def test_another_users_same_key_is_another_key(api, other_api):
    """Nobody sees that a key was used by somebody else."""
    first, second = post(api, url="/pay/"), post(other_api, url="/pay/")

    assert first.status_code == second.status_code == 201
    assert not is_replay(second)
    assert first.content != second.content
    assert Payment.objects.count() == 2


@pytest.mark.django_db
def test_a_record_is_new_again_when_it_has_expired(protect, client, serve):
    """After its `ttl` a key names a new action, even with another payload."""
    serve(protect(make_payment))

    assert post(client).status_code == 201
    expire()
    response = post(client, {"amount": 11})

    assert response.status_code == 201
    assert not is_replay(response)
    assert is_replay(post(client, {"amount": 11}))
    assert post(client).status_code == 422
    assert [payment.amount for payment in Payment.objects.order_by("pk")] == [10, 11]


# --- who may have a replay ---


@pytest.mark.django_db
def test_permissions_run_before_a_replay(user, serve):
    """A permission that was revoked since the first request refuses the retry: nobody gets yesterday's rights."""
    allowed = [True]

    class MayPay(BasePermission):
        def has_permission(self, request, view):
            return allowed[0]

    class View(APIView):
        permission_classes = [MayPay]

        @idempotent
        def post(self, request):
            return make_payment(request)

    serve(View.as_view())
    api = authenticated(user)

    assert post(api).status_code == 201
    allowed[0] = False
    response = post(api)

    assert response.status_code == 403
    assert "Idempotency-Replayed" not in response
    allowed[0] = True
    assert is_replay(post(api))


@pytest.mark.django_db
def test_throttles_run_before_a_replay(user, serve):
    """A replay is a request like any other to the API's limits, and 429 comes from the throttle."""
    left = [1]

    class Throttle(BaseThrottle):
        def allow_request(self, request, view):
            left[0] -= 1
            return left[0] >= 0

        def wait(self):
            return 7

    class View(APIView):
        throttle_classes = [Throttle]

        @idempotent
        def post(self, request):
            return make_payment(request)

    serve(View.as_view())
    api = authenticated(user)

    assert post(api).status_code == 201
    response = post(api)

    assert (response.status_code, response["Retry-After"]) == (429, "7")
    left[0] = 1
    assert is_replay(post(api))


@pytest.mark.django_db
def test_authentication_runs_before_anything_of_ours(user, serve):
    """Without a valid token there is no replay, and no error of ours that would tell of one."""
    api = authenticated(user)
    assert post(api, url="/pay/").status_code == 201
    api.credentials(HTTP_AUTHORIZATION="Token wrong")

    for key in ("key-1", "not a key"):
        assert post(api, url="/pay/", key=key).status_code == 401


@pytest.mark.django_db
def test_login_required_stands_outside(user, serve):
    """A plain view's login is asked for before a replay as before an execution."""
    serve(login_required(plain(make_payment)))
    client = Client()
    client.force_login(user)

    assert post(client).status_code == 201
    assert is_replay(post(client))
    client.logout()
    response = post(client)

    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


# --- in flight ---


@pytest.fixture
def impatient():
    """SQLite's writers wait for each other no longer than the tests want to."""
    options = connections["default"].settings_dict["OPTIONS"]
    if VENDOR != "sqlite":
        yield
        return
    before = options["timeout"]
    options["timeout"] = 0.1
    yield
    options["timeout"] = before


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_in_flight_is_refused_with_retry_after(edge, user, serve, background, gate, impatient, request):
    """
    409 at once, and never a second execution. On SQLite, which has one writer, a duplicate waits for it as long as the
    busy timeout says, and then gets 503.
    """

    def handler(request):
        gate.wait()
        return make_payment(request)

    serve({"drf": drf, "plain": plain}[edge](handler))
    client, rival = request.getfixturevalue("api" if edge == "drf" else "browser"), None
    rival = authenticated(user) if edge == "drf" else Client()
    if edge == "plain":
        rival.cookies = client.cookies
    first = background(post, client)
    gate.reached()

    second = background(post, rival).result(TIMEOUT)

    expected = (503, "store-unavailable") if VENDOR == "sqlite" else (409, "request-in-progress")
    assert (second.status_code, second.json()["code"]) == expected
    assert int(second["Retry-After"]) >= 1
    assert second["Retry-After"].isdigit()

    gate.open()
    assert first.result(TIMEOUT).status_code == 201
    third = post(rival)
    assert is_replay(third)
    assert third.content == first.result().content
    assert Payment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_in_flight_with_another_payload(user, serve, background, gate, impatient):
    """Its fingerprint cannot be compared yet: in flight, and 422 when the first has committed."""

    def handler(request):
        gate.wait()
        return make_payment(request)

    serve(drf(handler))
    first = background(post, authenticated(user))
    gate.reached()

    assert background(post, authenticated(user), {"amount": 11}).result(TIMEOUT).status_code in (409, 503)
    gate.open()
    assert first.result(TIMEOUT).status_code == 201
    assert post(authenticated(user), {"amount": 11}).status_code == 422


@pytest.mark.django_db(transaction=True)
def test_another_key_is_not_held_up(user, serve, background, gate, vendor):
    """A request in flight is in nobody else's way, but for SQLite, which has one writer."""

    def handler(request):
        if request.idempotency.key == "slow":
            gate.wait()
        return make_payment(request)

    serve(drf(handler))
    if vendor == "sqlite":
        gate.open()
    slow = background(post, authenticated(user), key="slow")
    gate.reached()

    assert post(authenticated(user), key="quick").status_code == 201
    gate.open()
    assert slow.result(TIMEOUT).status_code == 201


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("outcome", ["executed", "forgotten"])
def test_wait_waits_for_the_first_and_then_replays(edge, user, browser, serve, background, gate, monkeypatch, outcome):
    """With `in_flight="wait"` a duplicate gets the first one's answer, or executes if the first was rolled back."""
    runs = []

    def handler(request):
        runs.append(1)
        if len(runs) == 1:
            gate.wait()
            if outcome == "forgotten":
                raise ValueError
        return make_payment(request)

    protect = {"drf": drf, "plain": plain}[edge]
    serve(protect(handler, in_flight="wait", scope=lambda request: "one"))
    polled = threading.Event()
    sleep = time.sleep

    def poll(seconds):
        assert not connection.in_atomic_block
        polled.set()
        sleep(seconds)

    monkeypatch.setattr(engine.time, "sleep", poll)
    clients = [authenticated(user) if edge == "drf" else Client(raise_request_exception=False) for _ in range(2)]

    first = background(post, clients[0])
    gate.reached()
    second = background(post, clients[1])
    if VENDOR != "sqlite":  # where it waits inside the database
        assert polled.wait(TIMEOUT)
    gate.open()

    first, second = first.result(TIMEOUT), second.result(TIMEOUT)
    assert second.status_code == 201
    if outcome == "executed":
        assert is_replay(second)
        assert second.content == first.content
    else:
        assert first.status_code == 500
        assert not is_replay(second)
    assert Payment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_wait_gives_up_after_wait_timeout(user, serve, background, gate, impatient):
    """Then it is 409 like everywhere else (503 on SQLite, whose busy timeout is its own)."""

    def handler(request):
        gate.wait()
        return make_payment(request)

    serve(drf(handler, in_flight="wait", wait_timeout=timedelta(milliseconds=50)))
    first = background(post, authenticated(user))
    gate.reached()

    second = background(post, authenticated(user)).result(TIMEOUT)

    assert second.status_code == (503 if VENDOR == "sqlite" else 409)
    gate.open()
    assert first.result(TIMEOUT).status_code == 201


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("in_flight", ["reject", "wait"])
def test_a_race_executes_once(user, serve, background, in_flight, atomic_requests):
    """Of four simultaneous requests with one key one executes; the others get 409 or its bytes."""
    barrier = threading.Barrier(4)

    def race():
        client = authenticated(user)
        barrier.wait(TIMEOUT)
        return post(client)

    serve(drf(make_payment, in_flight=in_flight))
    authenticated(user)

    responses = [future.result(TIMEOUT) for future in [background(race) for _ in range(4)]]

    assert Payment.objects.count() == 1
    assert {response.status_code for response in responses} <= {201, 409}
    assert len({response.content for response in responses if response.status_code == 201}) == 1
    assert sum(response.status_code == 201 and not is_replay(response) for response in responses) == 1


# --- the store does not answer ---


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_is_503_and_nothing_ran(serve, monkeypatch):
    """Fail closed: with `Retry-After`, before the handler. When it is back, the same request runs."""
    serve(plain(make_payment, scope=lambda request: "one"))
    client = Client(raise_request_exception=False)
    assert post(client, key="warm").status_code == 201
    settings = connections["default"].settings_dict
    connection.close()
    if VENDOR == "sqlite":
        monkeypatch.setitem(settings, "NAME", "/nowhere/at/all.sqlite3")
    else:
        monkeypatch.setitem(settings, "PORT", "1")

    response = post(client)
    connection.close()
    monkeypatch.undo()

    assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
    assert int(response["Retry-After"]) >= 1
    assert Payment.objects.count() == 1
    assert post(client).status_code == 201


RUN_OUT_OF = {
    "postgresql": {"disk": "53100", "locks or memory": "53200", "of a limit of its own": "53400"},
    "mariadb": {"disk": "1021", "table space": "1114", "locks": "1206"},
}

if VENDOR != "sqlite":  # which has no server to lose

    def refuse_claims(code):
        """Let the server answer each INSERT of a record with the error *code*. What it returns undoes it."""
        table = IdempotencyRecord._meta.db_table
        if VENDOR == "postgresql":
            create = [
                "CREATE FUNCTION test_refuse() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE EXCEPTION 'nothing is left' USING ERRCODE = '{code}'; END $$",
                f"CREATE TRIGGER test_refuse BEFORE INSERT ON {table} EXECUTE FUNCTION test_refuse()",
            ]
            drop = "DROP FUNCTION test_refuse CASCADE"
        else:
            create = [
                f"CREATE TRIGGER test_refuse BEFORE INSERT ON {table} FOR EACH ROW"
                f" SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'nothing is left'"
            ]
            drop = "DROP TRIGGER test_refuse"
        run_alone(*create)
        return lambda: run_alone(drop)

    def run_alone(*statements):
        """On a connection of its own, whose cursor is no request's."""
        own = connection.copy()
        try:
            with own.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            own.close()

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("code", RUN_OUT_OF[VENDOR].values(), ids=RUN_OUT_OF[VENDOR])
    def test_a_database_that_has_run_out_is_503_and_nothing_ran(protect, client, serve, atomic_requests, code):
        """Of disk, memory or locks: it comes back, as one that is away does."""
        serve(protect(make_payment))
        undo = refuse_claims(code)
        try:
            response = post(client)
        finally:
            undo()

        assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
        assert not Payment.objects.exists()
        assert post(client).status_code == 201

    @pytest.mark.django_db(transaction=True)
    def test_a_connection_that_is_lost_before_the_claim_is_503(user, serve, atomic_requests):
        """Nothing was done, whether or not the request had a transaction of its own already."""
        if POOLED and not atomic_requests:
            pytest.skip("outside a transaction no connection is our own: the pooler replaces a lost one")
        lose = [True]

        class LosesItsConnection(BasePermission):
            def has_permission(self, request, view):
                if lose:
                    lose.pop()
                    end_own_connection()
                return True

        class View(APIView):
            permission_classes = [LosesItsConnection]

            @idempotent
            def post(self, request):
                return make_payment(request)

        serve(View.as_view())

        response = post(authenticated(user))
        connection.close()

        assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
        assert int(response["Retry-After"]) >= 1
        assert not Payment.objects.exists()
        assert post(authenticated(user)).status_code == 201

    @pytest.mark.django_db(transaction=True)
    def test_a_connection_that_is_lost_in_the_handler_is_no_503(protect, client, serve, atomic_requests):
        """Whoever sees an error after the handler began gets a 500: 503 says that nothing was done."""
        lose = [True]

        def handler(request):
            response = make_payment(request)
            if lose:
                lose.pop()
                end_own_connection()
            return response

        serve(protect(handler))

        response = post(client)
        connection.close()

        assert response.status_code == 500
        assert not Payment.objects.exists()
        assert post(client).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_an_error_of_the_handlers_database_is_no_503(protect, client, serve):
    """An OperationalError that the handler raises is the handler's."""

    def handler(request):
        raise OperationalError("the handler's own")

    serve(protect(handler))

    assert post(client).status_code == 500


@pytest.mark.django_db(transaction=True)
def test_a_missing_table_names_the_remedy(client, protect, serve):
    """A 500 that says `manage.py migrate`: a defect is no outage."""
    serve(protect(make_payment))
    table = IdempotencyRecord._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")
    try:
        response = post(client)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {table}")

    assert response.status_code == 500
    assert "manage.py migrate" in "".join(response.exc_info[1].__notes__)
    assert not Payment.objects.exists()


# --- signals and logs ---


@pytest.mark.django_db(transaction=True)
def test_each_decision_is_signalled_and_logged_without_the_key(protect, client, serve, caplog):
    """Receivers hear of each decision once it stands; the log names identities, never keys or bodies."""
    heard = []
    names = ("executed", "replayed", "refused", "forgotten")
    receivers = {}
    for name in names:

        def receiver(sender, identity, name=name, **kwargs):
            heard.append((name, identity.key, connection.in_atomic_block))

        receivers[name] = receiver
        getattr(signals, f"operation_{name}").connect(receiver)
    refuse = []

    def handler(request):

        return answer(request, {}, 400) if refuse else make_payment(request)

    serve(protect(handler))
    try:
        with caplog.at_level("INFO", "django_idempotency"):
            post(client, key="secret-key")
            post(client, key="secret-key")
            post(client, {"amount": 11}, key="secret-key")
            refuse.append(1)
            post(client, key="other-key")
    finally:
        for name, receiver in receivers.items():
            getattr(signals, f"operation_{name}").disconnect(receiver)

    assert heard == [
        ("executed", "secret-key", False),
        ("replayed", "secret-key", False),
        ("refused", "secret-key", False),
        ("forgotten", "other-key", False),
    ]
    messages = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
    assert [message.split()[0] for message in messages] == ["Executed", "Replayed", "Refused", "Forgot"]
    assert not any("secret" in message or "amount" in message for message in messages)


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_raises_harms_no_request(client, protect, serve):
    """Its error is logged by Django, and the answer is sent."""

    def receiver(**kwargs):
        raise LookupError

    signals.operation_executed.connect(receiver)
    try:
        serve(protect(make_payment))
        assert post(client).status_code == 201
    finally:
        signals.operation_executed.disconnect(receiver)


@pytest.mark.django_db
def test_anonymous_requests_share_one_scope(serve):
    """Without user and credential there is nothing to tell two clients apart by."""
    serve(plain(make_payment))

    assert post(Client()).status_code == 201
    assert is_replay(post(Client()))
    assert IdempotencyRecord.objects.get().scope == "anonymous"


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_a_credential_is_a_scope_of_its_own(serve, header):
    """A client that no user stands for is told by the credential it sends, of which only a digest is stored."""
    serve(plain(make_payment))

    for value in ("secret-one", "secret-two"):
        assert not is_replay(post(Client(), headers={header: value}))
        assert is_replay(post(Client(), headers={header: value}))

    scopes = {record.scope for record in IdempotencyRecord.objects.all()}
    assert len(scopes) == 2
    assert not any("secret" in scope for scope in scopes)


@pytest.mark.django_db
def test_an_authenticated_user_without_a_key_of_its_own_is_a_clear_error(serve):
    """A stateless user (of a JWT) has no pk: the error names the option that helps, and nothing runs."""

    class Nobody:
        is_authenticated = True
        pk = None

    serve(authenticated_by(lambda: (Nobody(), None), make_payment))

    response = post(APIClient(raise_request_exception=False))

    assert response.status_code == 500
    assert "Set the option `scope`" in str(response.exc_info[1])
    assert not Payment.objects.exists()


class Opaque:
    """What an authenticator of service accounts may leave in `request.auth`: an object, made anew for each request."""


class Credential(Opaque):
    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name


CREDENTIALS = {
    "opaque": (Opaque, Opaque, True),
    "the same text": (lambda: Credential("a"), lambda: Credential("a"), True),
    "another text": (lambda: Credential("a"), lambda: Credential("b"), False),
    "another string": (lambda: "a", lambda: "b", False),
    "the same claims": (lambda: {"client": 1}, lambda: {"client": 1}, True),
}


@pytest.mark.django_db
@pytest.mark.parametrize(("first", "second", "same"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_credential_without_a_user_is_the_same_for_a_retry(serve, first, second, same):
    """A scope that changed with each request would let each retry run: an object's address is no name."""
    credentials = [first, second]

    serve(authenticated_by(lambda: (AnonymousUser(), credentials.pop(0)()), make_payment))
    keep = [Opaque() for _ in range(10)]  # so that no address is used twice

    responses = [post(APIClient(), headers={"Authorization": "Bearer one"}) for _ in range(2)]

    assert keep
    assert [response.status_code for response in responses] == [201, 201]
    assert is_replay(responses[1]) == same


@pytest.mark.django_db
def test_a_credential_that_cannot_be_told_from_others_is_a_clear_error(serve):
    """Neither user nor text nor header: to share one scope with everybody could give an answer away."""

    serve(authenticated_by(lambda: (None, Opaque()), make_payment))

    response = post(APIClient(raise_request_exception=False))

    assert response.status_code == 500
    assert "Set the option `scope`" in str(response.exc_info[1])
    assert not Payment.objects.exists()
