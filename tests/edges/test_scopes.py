"""Whose key it is, where no user says it: nobody gets an answer that was not theirs."""

import uuid

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import RequestFactory
from django.test.utils import isolate_apps
from django.utils.functional import SimpleLazyObject
from rest_framework.test import APIClient

from django_idempotency.adapters.scope import default_scope
from django_idempotency.core.keys import Attempt, Identity, check_string
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError
from tests.app.models import Payment, Unique
from tests.app.serving import authenticated_by, is_replay, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db


@pytest.fixture
def serve_keys(serve):
    """A view that API keys open, given as the credentials of its requests in their order."""

    def serve_keys(*credentials):
        left = list(credentials)
        serve(authenticated_by(lambda: (AnonymousUser(), left.pop(0)), make_payment))

    return serve_keys


@pytest.fixture
def api_key(monkeypatch):
    """Make an API key: a row whose text is the name that its owner gave it."""
    monkeypatch.setattr(Unique, "__str__", lambda self: "production")
    return lambda name: Unique.objects.create(name=name)


def test_two_keys_of_one_name_are_two_scopes(serve_keys, api_key):
    """A model's text is for people; the row is who it is."""
    serve_keys(api_key("a"), api_key("b"))

    responses = [post(APIClient()) for _ in range(2)]

    assert [is_replay(response) for response in responses] == [False, False]
    assert Payment.objects.count() == 2


def test_one_key_is_one_scope(serve_keys, api_key):
    """The same row, loaded anew for each request."""
    key = api_key("a")
    serve_keys(key, Unique.objects.get(pk=key.pk))

    assert [is_replay(post(APIClient())) for _ in range(2)] == [False, True]


def test_a_proxys_authorization_does_not_hide_the_api_key(serve_keys):
    """Both headers count: behind a proxy that adds one of its own, the other tells the callers apart."""
    serve_keys(None, None, None)
    headers = [{"Authorization": "Basic proxy", "X-Api-Key": key} for key in ("a", "b", "a")]

    responses = [post(APIClient(), headers=each) for each in headers]

    assert [is_replay(response) for response in responses] == [False, False, True]


# --- one user, however it was loaded ---


def scope_of(user=None, auth=None, **meta):
    """The default scope of a request by *user* with the credential *auth*."""
    request = RequestFactory().post("/", **meta)
    request.user, request.auth = user, auth
    return default_scope(request)


def test_anonymous_requests_share_one_scope():
    """Without user and credential there is nothing to tell two clients apart by."""
    assert scope_of() == scope_of(AnonymousUser()) == "anonymous"


@pytest.mark.parametrize("header", ["HTTP_AUTHORIZATION", "HTTP_X_API_KEY"])
def test_a_credential_is_a_scope_of_its_own(header):
    """A client without a user is told by the credential it sends, of which only a digest is stored."""
    one, other, again = (scope_of(**{header: f"secret-{value}"}) for value in "aba")

    assert one == again != other
    assert "secret" not in one


class Opaque:
    """What an authenticator of service accounts may leave in `request.auth`: an object, made anew for each request."""


class Credential(Opaque):
    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name


CREDENTIALS = {
    "opaque": (Opaque(), Opaque(), True),
    "the same text": (Credential("a"), Credential("a"), True),
    "another text": (Credential("a"), Credential("b"), False),
    "another string": ("a", "b", False),
    "the same claims": ({"client": 1}, {"client": 1}, True),
}


@pytest.mark.parametrize(("first", "second", "same"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_credential_without_a_user_is_the_same_for_a_retry(first, second, same):
    """A scope that changed with each request would let each retry run: an object's address is no name."""
    one, other = (scope_of(AnonymousUser(), auth, HTTP_AUTHORIZATION="Bearer one") for auth in (first, second))

    assert (one == other) == same


def test_a_credential_that_cannot_be_told_from_others_is_a_clear_error():
    """Neither user nor text nor header: to share one scope with everybody could give an answer away."""
    with pytest.raises(PolicyError, match="Set the option `scope`"):
        scope_of(auth=Opaque())


@isolate_apps("tests.app")
def test_a_proxy_and_a_child_of_the_user_model_are_the_same_user(user):
    """A backend or an authenticator may load the row through another model: its keys stay the same ones."""

    class Merchant(User):
        class Meta:
            app_label = "app"
            proxy = True

    class Shop(Merchant):
        class Meta:
            app_label = "app"

    class Branch(Shop):
        class Meta:
            app_label = "app"

    shop = Shop(user_ptr_id=user.pk)
    branch = Branch(shop_ptr_id=user.pk)

    session = SimpleLazyObject(lambda: user)
    assert {scope_of(each) for each in (session, user, Merchant(pk=user.pk), shop, branch)} == {f"auth.user:{user.pk}"}


@isolate_apps("tests.app")
def test_a_proxy_of_an_api_keys_model_is_the_same_key(api_key):
    """What authenticates without a user is known by its row, too."""

    class Machine(Unique):
        class Meta:
            app_label = "app"
            proxy = True

    key = api_key("a")

    assert scope_of(auth=Machine(pk=key.pk)) == scope_of(auth=key) == f"credential:app.unique:{key.pk}"


class RemoteUser:
    """A user of another system, as a token describes it."""

    is_authenticated = True

    def __init__(self, pk):
        self.pk = pk


class OtherUser(RemoteUser):
    """Of a third system."""


def test_a_lazy_user_is_the_user_in_it():
    """Django's middleware wraps users, DRF's authenticators do not: neither makes two of one, nor one of two."""
    lazy = [SimpleLazyObject(lambda kind=kind: kind("7")) for kind in (RemoteUser, OtherUser)]

    assert scope_of(lazy[0]) == scope_of(RemoteUser("7"))
    assert scope_of(lazy[0]) != scope_of(lazy[1])


def test_a_uuid_and_a_long_key_are_scopes():
    """A primary key may be of any type, and longer than a scope's column; two long ones stay two."""
    number = uuid.UUID(int=7)
    long = [scope_of(RemoteUser("x" * 255 + end)) for end in ("a", "b", "a")]

    assert scope_of(RemoteUser(number)) == scope_of(RemoteUser(str(number)))
    assert long[0] == long[2] != long[1]
    assert all(check_string("scope", scope) for scope in long)


@pytest.mark.parametrize(
    ("user", "lacks"), [(RemoteUser(None), "primary key"), (User(), "primary key"), ("api-client", "is_authenticated")],
    ids=["no pk", "unsaved", "no user at all"],
)  # fmt: skip
def test_a_user_that_cannot_be_told_from_others_is_a_clear_error(user, lacks):
    """It names what is missing and the option that helps."""
    with pytest.raises(PolicyError, match=rf"{lacks}.* Set the option `scope`"):
        scope_of(user)


def test_a_renewed_credential_is_another_scope_unless_scope_names_the_holder(serve):
    """A machine's short token changes, and the machine stays: only the project knows whose it is."""
    tokens = ["monday", "tuesday"] * 2
    view = authenticated_by(lambda: (None, tokens.pop(0)), make_payment)
    named = authenticated_by(lambda: (None, tokens.pop(0)), make_payment, scope=lambda request: "machine-1")

    for route, replayed in ((view, False), (named, True)):
        serve(route)
        assert [is_replay(post(APIClient(), key=str(replayed))) for _ in range(2)] == [False, replayed]


@pytest.mark.parametrize("value", ["Bearer secret" * 30, "secret\0"])
def test_an_error_about_a_scope_does_not_print_it(value):
    """A scope is often made of a credential, and errors are logged."""
    with pytest.raises(PolicyError) as caught:
        check_string("scope", value)

    assert "secret" not in str(caught.value)


def test_reprs_show_no_key_and_no_answer():
    """Error reporters print what stands on the stack."""
    attempt = Attempt(identity=Identity("user:1", "POST /", "k-secret"), fingerprint=b"", ttl=1)
    record = CompletionRecord(status=201, headers=(("X", "h-secret"),), body=b"b-secret")

    assert "secret" not in repr(attempt) + repr(record)
