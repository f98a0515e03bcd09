"""Every option, at every level: it takes effect, and the nearest one wins."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.http import JsonResponse
from django.urls import path
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.exceptions import PermissionDenied
from rest_framework.response import Response
from rest_framework.views import APIView

from django_idempotency import Policy, conf, fingerprints, idempotent, moving, once
from django_idempotency.core.policy import DEFAULTS
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from django_idempotency.stores.database import DatabaseStore
from tests.app.models import Payment
from tests.app.serving import PATH, drf, is_replay, plain, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db(databases=["default", "other"])

# --- callables that options name ---


def scope_by_header(request) -> str:
    return request.headers.get("X-Tenant", "none")


def other_scope(request) -> str:
    return "everybody"


def key_by_header(request) -> str | None:
    return request.headers.get("X-Event")


def other_key(request) -> str | None:
    return request.headers.get("X-Other-Event")


def amount_alone(request) -> bytes:
    return str(request.data["amount"]).encode()


def nothing(request) -> bytes:
    return b""


def keep_all(response) -> bool:
    return True


def keep_none(response) -> bool:
    return False


def forbid(request, record) -> None:
    raise PermissionDenied("not any more")


def allow(request, record) -> None:
    """Under today's rules, too."""


def amount_of(request, response) -> int:
    return response.data["amount"]


def nothing_of(request, response) -> str:
    return ""


def accepted(request, reference) -> Response:
    return Response({"reference": reference})


def teapot(request, refusal) -> JsonResponse:
    return JsonResponse({"was": refusal.code}, status=418)


def gone(request, refusal) -> JsonResponse:
    return JsonResponse({"was": refusal.code}, status=410)


def to_other(request) -> str:
    return "other"


def operation_by_header(request) -> str:
    return request.headers.get("X-Operation", "none")


class OtherStore(DatabaseStore):
    """Tells that it was asked."""

    claims = 0

    def claim(self, using, attempt):
        OtherStore.claims += 1
        return super().claim(using, attempt)


STORES = {"second": {"BACKEND": f"{__name__}.OtherStore"}}

# --- what shows that an option is in effect ---


def asks_for_a_key(api) -> bool:
    return post(api, key=None).status_code == 400


def protects_put(api) -> bool:
    return is_replay([api.put(PATH, {"amount": 1}, headers={"Idempotency-Key": "k"}) for _ in range(2)][1])


def echoed(api) -> str | None:
    return post(api).headers.get("Idempotency-Key")


def tells_until(api) -> list[str]:
    return [name for name in post(api).headers if name.endswith("Until")]


def takes_no_reuse(api) -> int:
    post(api)
    return post(api, {"amount": 11}).status_code


def uncertain_ttl(api) -> timedelta | None:
    post(api)
    [record] = IdempotencyRecord.objects.all()
    return record.uncertain_until and record.uncertain_until - record.executed_at


def ttl(api) -> timedelta:
    post(api)
    record = IdempotencyRecord.objects.get()
    return timedelta(minutes=round((record.expires_at - timezone.now()).total_seconds() / 60))


def retried_with(**second: Any) -> Callable[[Any], int]:
    """The status of a retry that differs from the first request."""

    def show(api) -> int:
        assert post(api).status_code == 201
        return post(api, **second).status_code

    return show


def replay_status(api) -> int:
    return retried_with()(api)


def database(api) -> str:
    post(api)
    return "other" if IdempotencyRecord.objects.using("other").exists() else "default"


def scope(api) -> str:
    post(api, headers={"X-Tenant": "acme"})
    return IdempotencyRecord.objects.get().scope.partition(":")[0]


def operation(api) -> str:
    post(api, headers={"X-Operation": "by header"})
    return IdempotencyRecord.objects.get().operation


def key(api) -> str:
    post(api, headers={"X-Event": "evt-1", "X-Other-Event": "evt-2"})
    return IdempotencyRecord.objects.get().key


def takes(*keys: str) -> Callable[[Any], tuple[bool, ...]]:
    return lambda api: tuple(post(api, key=key).status_code == 201 for key in keys)


def takes_old_key(api) -> bool:
    made = round((time.time() - 2 * 60 * 60) * 1000)
    return post(api, key=str(UUID(int=(made << 80) | (7 << 76) | (2 << 62)))).status_code == 201


def is_stored(api) -> bool:
    post(api)
    return IdempotencyRecord.objects.exists()


def link(api) -> str | None:
    assert post(api).status_code == 201
    return post(api, {"amount": 11}).headers.get("Link")


def header(api) -> str | None:
    post(api, key=None, headers={"X-Key": "x", "Y-Key": "y", "Idempotency-Key": "i"})
    return IdempotencyRecord.objects.get().key


def replayed_header(api) -> str | None:
    post(api)
    response = post(api)
    return next((name for name, value in response.headers.items() if value == "true"), None)


def store(api) -> bool:
    OtherStore.claims = 0
    post(api)
    return OtherStore.claims == 1


def lost_headers(api) -> set[str]:
    first, second = post(api), post(api)
    return {*first.headers} - {*second.headers}


def stored_body(api) -> bytes:
    post(api)
    return bytes(IdempotencyRecord.objects.get().body)[:5]


def executes(api) -> int:
    return post(api).status_code


@dataclass(frozen=True, kw_only=True)
class Effect:
    """An option with two values, and what is seen under each and under its default."""

    one: Any
    other: Any
    show: Callable[[Any], Any]
    seen: tuple[Any, Any]
    default: Any
    beside: dict[str, Any] = field(default_factory=dict)  # further options, in the setting


UUID_KEY = "8E03978E-40d5-43e8-bc93-6894a57f9324"
KEYS = takes("key-1", "ch_123", UUID_KEY)

EFFECTS = {
    "required": Effect(one=True, other=False, show=asks_for_a_key, seen=(True, False), default=False),
    "methods": Effect(
        one=["POST", "PUT"], other=("patch",), show=protects_put, seen=(True, False), default=False
    ),
    "ttl": Effect(
        one=timedelta(hours=2),
        other=timedelta(days=7),
        show=ttl,
        seen=(timedelta(hours=2), timedelta(days=7)),
        default=timedelta(hours=24),
    ),
    "tombstone_ttl": Effect(
        one=timedelta(hours=1),
        other=timedelta(hours=2),
        show=ttl,
        seen=(timedelta(hours=25), timedelta(hours=26)),
        default=timedelta(hours=24),
    ),
    # In flight is the business of test_decisions.py; here, that each level takes it.
    "in_flight": Effect(one="wait", other="reject", show=executes, seen=(201, 201), default=201),
    "wait_timeout": Effect(
        one=timedelta(seconds=1), other=timedelta(seconds=2), show=executes, seen=(201, 201), default=201
    ),
    # Leases are the business of tests/redis and of the stores' conformance tests.
    "lease": Effect(one=timedelta(seconds=1), other=timedelta(seconds=2), show=executes, seen=(201, 201), default=201),
    "uncertain": Effect(one="retry", other="refuse", show=executes, seen=(201, 201), default=201),
    "uncertain_ttl": Effect(
        one=timedelta(hours=1),
        other=timedelta(days=7),
        show=uncertain_ttl,
        seen=(timedelta(hours=1), timedelta(days=7)),
        default=None,
    ),
    "not_done": Effect(one=[TimeoutError], other=[OSError], show=executes, seen=(201, 201), default=201),
    # The business of tests/retries.
    "retries": Effect(one=3, other=0, show=executes, seen=(201, 201), default=201),
    "mode": Effect(one="observe", other="atomic", show=is_stored, seen=(False, True), default=True),
    # The business of tests/phased.
    "max_attempts": Effect(one=1, other=2, show=executes, seen=(201, 201), default=201),
    "resume_for": Effect(
        one=timedelta(hours=1), other=timedelta(hours=2), show=executes, seen=(201, 201), default=201
    ),
    "store_request": Effect(one=True, other=False, show=executes, seen=(201, 201), default=201),
    # The business of test_observe.py, test_late.py and tests/forms.
    "observe_sample": Effect(one=0.5, other=1, show=executes, seen=(201, 201), default=201),
    # The business of tests/moving.
    "moved_from": Effect(one=moving.idemkit, other=moving.drf_idempotency, show=executes, seen=(201, 201), default=201),
    "operation_aliases": Effect(one=["pay"], other=("charge",), show=executes, seen=(201, 201), default=201),
    "form_key": Effect(one=False, other=True, show=executes, seen=(201, 201), default=201),
    "store": Effect(one="second", other="default", show=store, seen=(True, False), default=False),
    "using": Effect(one="other", other="default", show=database, seen=("other", "default"), default="default"),
    "using, callable": Effect(
        one=to_other, other="default", show=database, seen=("other", "default"), default="default"
    ),
    "scope": Effect(
        one=scope_by_header, other=other_scope, show=scope, seen=("acme", "everybody"), default="auth.user"
    ),
    "scope, dotted": Effect(
        one=f"{__name__}.scope_by_header",
        other=f"{__name__}.other_scope",
        show=scope,
        seen=("acme", "everybody"),
        default="auth.user",
    ),
    "operation": Effect(one="pay", other="charge", show=operation, seen=("pay", "charge"), default="POST act/"),
    "operation, callable": Effect(
        one=operation_by_header, other="charge", show=operation, seen=("by header", "charge"), default="POST act/"
    ),
    "key": Effect(one=key_by_header, other=other_key, show=key, seen=("evt-1", "evt-2"), default="key-1"),
    "key, dotted": Effect(
        one=f"{__name__}.key_by_header", other=other_key, show=key, seen=("evt-1", "evt-2"), default="key-1"
    ),
    "key_format": Effect(
        one="uuid",
        other=re.compile(r"ch_\d+"),
        show=KEYS,
        seen=((False, False, True), (False, True, False)),
        default=(True, True, True),
    ),
    "key_format, pattern": Effect(
        one=r"ch_\d+",
        other=lambda key: key.startswith("key"),
        show=KEYS,
        seen=((False, True, False), (True, False, False)),
        default=(True, True, True),
    ),
    "key_max_age": Effect(
        one=timedelta(days=1), other=timedelta(hours=1), show=takes_old_key, seen=(True, False), default=True
    ),
    "fingerprint": Effect(
        one=nothing, other=amount_alone, show=retried_with(data={"amount": 11}), seen=(201, 422), default=422
    ),
    "fingerprint, dotted": Effect(
        one=f"{__name__}.amount_alone",
        other=fingerprints.json(),
        show=retried_with(data={"amount": 10, "sent_at": "now"}),
        seen=(201, 422),
        default=422,
    ),
    "fingerprint, json": Effect(
        one=fingerprints.json(exclude=["sent_at"]),
        other=fingerprints.json(exclude=["amount"]),
        show=retried_with(data={"amount": 10, "sent_at": "now"}),
        seen=(201, 422),
        default=422,
    ),
    "should_store": Effect(one=keep_none, other=keep_all, show=is_stored, seen=(False, True), default=True),
    "should_store, dotted": Effect(
        one=f"{__name__}.keep_none", other=keep_all, show=is_stored, seen=(False, True), default=True
    ),
    "replay_guard": Effect(one=forbid, other=allow, show=replay_status, seen=(403, 201), default=201),
    "replay_guard, dotted": Effect(
        one=f"{__name__}.forbid", other=allow, show=replay_status, seen=(403, 201), default=201
    ),
    "docs_url": Effect(
        one="/one/",
        other="https://other.example/",
        show=link,
        seen=('</one/>; rel="describedby"', '<https://other.example/>; rel="describedby"'),
        default=None,
    ),
    "header": Effect(one="X-Key", other="Y-Key", show=header, seen=("x", "y"), default="i"),
    "replayed_header": Effect(
        one="X-Replayed", other="Y-Replayed", show=replayed_header, seen=("X-Replayed", "Y-Replayed"),
        default="Idempotency-Replayed",
    ),
    "expires_header": Effect(
        one="X-Until", other="Y-Until", show=tells_until, seen=(["X-Until"], ["Y-Until"]), default=[]
    ),
    # What a 409 says is in test_decisions.
    "retry_after": Effect(
        one=timedelta(seconds=2), other=timedelta(seconds=3), show=executes, seen=(201, 201), default=201
    ),
    "echo": Effect(one=True, other=False, show=echoed, seen=("key-1", None), default=None),
    "refuse": Effect(
        one=teapot, other=f"{__name__}.gone", show=takes_no_reuse, seen=(418, 410), default=422
    ),
    "max_body": Effect(one=1, other=10_000, show=executes, seen=(500, 201), default=201),
    "unstored_headers": Effect(
        one=["allow"], other=("Vary", "X-Other"), show=lost_headers, seen=({"Allow"}, {"Vary"}), default=set()
    ),
    "store_body": Effect(one=False, other=True, show=stored_body, seen=(b"", b'{"id"'), default=b'{"id"'),
    "record": Effect(
        one=amount_of, other=f"{__name__}.nothing_of", show=stored_body, seen=(b"10", b'""'), default=b'{"id"',
        beside={"RECORD": lambda request, response: "ref", "REPLAY": accepted},
    ),
    "replay": Effect(
        one=forbid, other=f"{__name__}.accepted", show=replay_status, seen=(403, 201), default=201,
        beside={"RECORD": amount_of, "REPLAY": accepted},
    ),
}  # fmt: skip


def test_every_option_has_an_effect_here():
    """A new option is not left out."""
    assert {name.partition(",")[0] for name in EFFECTS} == set(DEFAULTS)


def view(of_class: dict[str, Any], own: dict[str, Any]) -> Any:
    class View(IdempotencyMixin, APIView):
        idempotency = Policy(**of_class)

        def put(self, request):
            return make_payment(request)

        @idempotent(**own)
        def post(self, request):
            return make_payment(request)

    if own:
        View.put = idempotent(**own)(View.put)
    return View.as_view()


LEVELS = ("setting", "class", "decorator")


@pytest.fixture
def serve_with(serve, settings):
    """Serve a view with an option at some of the levels."""

    def serve_with(name: str, **values: Any) -> None:
        of = {level: {name: values[level]} if level in values else {} for level in LEVELS}
        project = {name.upper(): value for name, value in of["setting"].items()}
        settings.IDEMPOTENCY = {"STORES": STORES, **(EFFECTS[name].beside if values else {}), **project}
        serve(view(of["class"], of["decorator"]))

    return serve_with


@pytest.mark.parametrize("name", EFFECTS)
def test_the_default(serve_with, api, name):
    """What the manual's table says of a project that sets nothing."""
    serve_with("max_body")

    assert EFFECTS[name].show(api) == EFFECTS[name].default


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EFFECTS)
def test_an_option_takes_effect_at_each_level(serve_with, api, name, level):
    """The setting, the class's `Policy` and the decorator take the same options."""
    effect = EFFECTS[name]
    serve_with(name.partition(",")[0], **{level: effect.one})

    assert effect.show(api) == effect.seen[0]


@pytest.mark.parametrize(("far", "near"), [("setting", "class"), ("class", "decorator")])
@pytest.mark.parametrize("name", EFFECTS)
def test_the_nearest_option_wins(serve_with, api, name, far, near):
    """Decorator over class over setting."""
    effect = EFFECTS[name]
    serve_with(name.partition(",")[0], **{far: effect.one, near: effect.other})

    assert effect.show(api) == effect.seen[1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "name", [name for name, default in DEFAULTS.items() if default is None and not EFFECTS[name].beside]
)
def test_none_stands_for_the_default(serve_with, api, name, level):
    """A nearer None takes a farther value back, where the default is None."""
    effect = EFFECTS[name]
    values = {"setting": effect.one} if level != "setting" else {}
    serve_with(name, **values, **{level: None})

    assert effect.show(api) == effect.default


# --- the same for plain views, which know the setting and the decorator ---


@pytest.mark.parametrize("level", ["setting", "decorator"])
def test_plain_views_take_options_too(browser, serve, settings, level):
    """A plain view has no class to hold a policy."""
    settings.IDEMPOTENCY = {"REQUIRED": True, "DOCS_URL": "/docs/"} if level == "setting" else {}
    serve(plain(make_payment, **({"required": True, "docs_url": "/docs/"} if level == "decorator" else {})))

    response = post(browser, key=None)

    assert (response.status_code, response["Link"]) == (400, '</docs/>; rel="describedby"')


def test_a_plain_class_may_hold_a_policy(browser, serve):
    """`idempotency` on a plain class-based view is its policy, as on a DRF one."""

    @method_decorator(idempotent, name="post")
    class PlainView(View):
        idempotency = Policy(required=True)

        def post(self, request):
            return make_payment(request)

    serve(PlainView.as_view())

    assert post(browser, key=None).status_code == 400


# --- single options, closer ---


def test_a_constant_operation_makes_a_key_unique_over_two_endpoints(browser, serve):
    """Stripe's way: one key, one action, wherever it is sent."""
    serve(
        path("charge/", plain(make_payment, operation="money")),
        path("transfer/", plain(make_payment, operation="money")),
    )

    assert post(browser, url="/charge/").status_code == 201
    assert post(browser, url="/transfer/").status_code == 422
    assert is_replay(post(browser, url="/charge/"))


def test_a_scope_of_the_tenant_is_shared_by_its_users(api, other_api, serve):
    """A callable may make the scope wider than the user: whoever retries for the tenant gets the answer."""
    serve(drf(make_payment, scope=lambda request: "tenant:1"))

    assert post(api).status_code == 201
    assert is_replay(post(other_api))


@pytest.mark.parametrize("value", ["", None, 7, "x" * 256, "a\0b"])
@pytest.mark.parametrize("option", ["scope", "operation"])
def test_a_callable_that_gives_no_usable_text_is_an_error(client, protect, serve, option, value):
    """The error names the option, and nothing runs."""
    serve(protect(make_payment, **{option: lambda request: value}))

    response = post(client)

    assert response.status_code == 500
    assert option in str(response.exc_info[1])
    assert isinstance(response.exc_info[1], ImproperlyConfigured)
    assert not Payment.objects.exists()


def test_using_that_names_no_database_is_an_error(client, protect, serve):
    """The error names the option and the value."""
    serve(protect(make_payment, using=lambda request: "elsewhere"))

    response = post(client)

    assert response.status_code == 500
    assert "'using' returned 'elsewhere'" in str(response.exc_info[1])


def test_a_key_callable_may_give_numbers_and_nothing(client, protect, serve):
    """A sender's own id serves as it is; None means that there is no key; what is no key is 400."""
    given = [7, "7", None, "", "caf\xe9", "x" * 256, 1.5]
    serve(protect(make_payment, key=lambda request: given.pop(0)))

    statuses = [(response.status_code, is_replay(response)) for response in (post(client) for _ in range(7))]

    assert statuses == [(201, False), (201, True), (201, False), *[(400, False)] * 4]
    assert Payment.objects.count() == 2


def test_a_required_key_that_the_callable_does_not_find_is_missing(client, protect, serve):
    """`required` is about the key, wherever it comes from."""
    serve(protect(make_payment, key=lambda request: None, required=True))

    assert post(client).json()["code"] == "key-missing"


def test_a_key_that_does_not_fit_the_format_is_invalid(client, protect, serve):
    """400 `key-invalid`, with words that say it is the format."""
    serve(protect(make_payment, key_format="uuid"))

    response = post(client)

    assert (response.status_code, response.json()["code"]) == (400, "key-invalid")
    assert "format" in response.json()["detail"]
    assert post(client, key=f'"{UUID_KEY}"').status_code == 201


def test_the_error_names_the_header_that_is_asked_for(client, protect, serve):
    """A project's own header name is in the words."""
    serve(protect(make_payment, header="X-Request-Key", required=True))

    assert "X-Request-Key" in post(client).json()["detail"]
    assert post(client, key=None, headers={"X-Request-Key": "k"}).status_code == 201


def test_replay_guard_sees_the_record_and_todays_request(client, protect, serve):
    """It may refuse by what was answered; it is asked for replays only, outside of any transaction of ours."""
    seen = []

    def guard(request, record):
        seen.append((record.status, record.body, request.headers["X-Today"]))
        raise DjangoPermissionDenied

    serve(protect(make_payment, replay_guard=guard))

    first = post(client, headers={"X-Today": "1"})
    second = post(client, headers={"X-Today": "2"})

    assert (first.status_code, second.status_code) == (201, 403)
    assert "Idempotency-Replayed" not in second
    assert seen == [(201, first.content, "2")]
    assert Payment.objects.count() == 1
    assert IdempotencyRecord.objects.count() == 1


# --- errors at start-up ---


@pytest.mark.parametrize("make", [idempotent, Policy, lambda **options: once("event", key=str, **options)])
def test_an_unknown_option_is_an_error_that_suggests(make):
    """A slip of the fingers is not ignored."""
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'max_body'"):
        make(max_boddy=1)


def test_an_unknown_option_in_the_setting(settings):
    """The setting is checked like a decorator."""
    settings.IDEMPOTENCY = {"REQUIERD": True}
    with pytest.raises(ImproperlyConfigured, match="required"):
        conf.project_options()
