"""What the middleware does beside its choice of a place: routes, methods, transactions, errors, servers."""

import logging
import sqlite3
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST
from rest_framework.decorators import api_view
from rest_framework.routers import DefaultRouter

from django_idempotency import Policy, idempotent
from django_idempotency.exceptions import PolicyError
from django_idempotency.middleware import IdempotencyMiddleware
from django_idempotency.models import IdempotencyRecord
from django_idempotency.protection.by_default import decide, place_for
from django_idempotency.protection.exemptions import matches, readable
from django_idempotency.protection.middleware_place import check_middleware
from django_idempotency.protection.routes import unplaced
from tests.app.models import Payment
from tests.app.serving import KEY, is_replay, post
from tests.app.views import make_payment
from tests.protection.conftest import MIDDLEWARE
from tests.protection.zoo import (
    Callable_,
    GuardObject,
    LateVipMixin,
    ObjectSet,
    PaymentSet,
    Plain,
    derived,
    dispatching,
    nameless_guard,
    pay,
    vip_only,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("by_middleware")]


@pytest.fixture
def urls(settings) -> Any:
    """Serve views, each at a route of its own: `view0/` and so on."""

    def make(*views: Any) -> None:
        patterns = [
            view if hasattr(view, "pattern") else path(f"view{number}/", view) for number, view in enumerate(views)
        ]
        settings.ROOT_URLCONF = type("URLconf", (), {"urlpatterns": [*patterns, path("admin/", admin.site.urls)]})

    return make


@pytest.fixture
def browser(user) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def twice(client: Client, url: str = "/view0/", **extra: Any) -> Any:
    """The second of two equal requests."""
    post(client, url=url, **extra)
    return post(client, url=url, **extra)


# --- requests that are not protected ---


def test_a_request_without_a_key_runs_as_if_we_were_not_there(urls, browser):
    """Twice, as ever; inside, the handle is None."""
    seen = []

    def view(request):
        seen.append(request.idempotency)
        return make_payment(request)

    urls(handle(view))
    twice(browser, key=None)

    assert Payment.objects.count() == 2
    assert not IdempotencyRecord.objects.exists()


def handle(view: Any) -> Any:
    return view


@pytest.mark.parametrize("method", ["get", "head", "options", "put", "delete"])
def test_other_methods_pass_through(urls, browser, method):
    """They are idempotent by definition."""
    urls(every_method)

    for _ in range(2):
        response = getattr(browser, method)("/view0/", headers=KEY)
        assert response.status_code == 200
        assert response.headers["Handle"] == "None"
    assert not IdempotencyRecord.objects.exists()


def every_method(request):
    return HttpResponse("seen", headers={"Handle": repr(request.idempotency)})


def test_the_handle(urls, browser):
    """A protected handler has it."""
    urls(says_key)

    assert post(browser, url="/view0/").content == b"key-1"


def says_key(request):
    return HttpResponse(request.idempotency.key)


@pytest.mark.parametrize("number", range(4))
def test_405_stays(urls, browser, number):
    """Where a view takes no POST, or no PATCH."""
    urls(require_POST(pay()), Plain.as_view(), api_view(["POST"])(pay()), PaymentSet.as_view({"post": "transfer"}))

    response = browser.patch(f"/view{number}/", {}, content_type="application/json", headers=KEY)

    assert response.status_code == (405 if number < 2 else 405 if number == 2 else 401)
    assert not IdempotencyRecord.objects.exists()


def test_404_stays(urls, browser):
    """Of a route that is not there, and of a handler that raises it: that one frees its key."""
    urls(not_found)

    assert post(browser, url="/nowhere/").status_code == 404
    assert twice(browser).status_code == 404
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def not_found(request):
    make_payment(request)
    raise Http404


# --- errors and responses, as Django has them for any view ---


class Catches:
    """A middleware of the project's that answers a view's exceptions, and one of templates."""

    caught: list[str] = []

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        self.caught.append(repr(exception))
        return JsonResponse({"caught": str(exception)}, status=418) if isinstance(exception, LookupError) else None

    def process_template_response(self, request: Any, response: Any) -> Any:
        response.context_data = {**(response.context_data or {}), "seen": True}
        return response


def test_process_exception_is_asked(urls, browser, settings):
    """As for any exception of a view, and what it answers is no record."""
    settings.MIDDLEWARE = [f"{__name__}.Catches", *settings.MIDDLEWARE]
    Catches.caught.clear()
    urls(fails)

    response = twice(browser)

    assert (response.status_code, response.json()) == (418, {"caught": "'no such card'"})
    assert Catches.caught == ["KeyError('no such card')"] * 2
    assert not Payment.objects.exists()


def fails(request):
    make_payment(request)
    raise KeyError("no such card")


@pytest.mark.parametrize(("error", "status"), [(PermissionDenied, 403), (Http404, 404), (ZeroDivisionError, 500)])
def test_an_exception_has_djangos_answer(urls, browser, error, status):
    """Whatever a middleware does not answer."""

    def view(request):
        raise ERROR[0]

    ERROR[0] = error
    urls(raises)

    assert post(browser, url="/view0/").status_code == status


ERROR: list[Any] = [None]


def raises(request):
    raise ERROR[0]


def test_an_exception_reaches_a_tests_client(urls, user):
    """With its own type and traceback."""
    client = Client()
    client.force_login(user)
    urls(fails)

    with pytest.raises(KeyError, match="no such card") as caught:
        post(client, url="/view0/")
    assert caught.traceback[-1].name == "fails"


def test_template_middleware(urls, browser, settings):
    """A template response is one on its first answer too."""
    settings.MIDDLEWARE = [f"{__name__}.Catches", *settings.MIDDLEWARE]
    urls(template)

    assert post(browser, url="/view0/").status_code == 200
    assert is_replay(post(browser, url="/view0/"))


def template(request):
    return TemplateResponse(request, "admin/404.html", {})


def test_a_view_that_returns_nothing(urls, user):
    """Is run once, and is an error that says so."""
    client = Client()
    client.force_login(user)
    urls(nothing)

    with pytest.raises(Exception, match="must return an HttpResponse, not NoneType"):
        post(client, url="/view0/")
    assert not Payment.objects.exists()


def nothing(request):
    make_payment(request)


def test_a_handler_that_is_not_reached_is_said(urls, browser, caplog):
    """A class that swaps its handlers late is protected by nobody, and the log says so once."""
    urls(Swapping.as_view())

    twice(browser)

    assert Payment.objects.count() == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{__name__}.Swapping answered before its handler was reached, so nothing was protected."
    ]


class Swapping(Plain):
    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        self.post = self.other

    def other(self, request):
        return make_payment(request)


def test_a_guard_after_the_handler(urls, user, browser):
    """It refuses a replay as it refused the handler's answer."""
    user.first_name = "vip"
    user.save()
    urls(derived(Plain, LateVipMixin).as_view())
    assert is_replay(twice(browser))
    user.first_name = ""
    user.save()

    response = post(browser, url="/view0/")

    assert response.status_code == 403
    assert not is_replay(response)


# --- transactions ---


def test_atomic_requests(urls, browser, atomic_requests):
    """Handler and record commit together, an error rolls both back."""
    urls(pay(), fails, login_required(Plain.as_view()))

    assert is_replay(twice(browser))
    assert is_replay(twice(browser, "/view2/"))
    assert twice(browser, "/view1/").status_code == 500
    assert Payment.objects.count() == 2
    assert IdempotencyRecord.objects.count() == 2


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite alone has one writer")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", range(3))
def test_sqlites_one_writer_is_busy_when_django_begins(urls, browser, number):
    """ATOMIC_REQUESTS: BEGIN comes before any of our code in the view. It is 503, and nothing was done."""
    urls(pay(), idempotent(pay()), Plain.as_view())
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    connection.ensure_connection()
    connection.connection.execute("PRAGMA busy_timeout = 100")
    rival = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    try:
        response = post(browser, url=f"/view{number}/")
    finally:
        rival.execute("ROLLBACK")
        rival.close()
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert not Payment.objects.exists()
    assert post(browser, url=f"/view{number}/").status_code == 201


def test_statements_do_not_grow(urls, browser, django_assert_num_queries):
    """A first execution and a replay send what they send under the decorator."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    urls(pay(), idempotent(pay()))
    found = []
    for url in ("/view0/", "/view1/"):
        for _ in range(2):
            with CaptureQueriesContext(
                connection,
            ) as queries:
                post(browser, url=url)
            found.append(len(queries))

    assert found[:2] == found[2:]


# --- routes ---


def login(request):
    return make_payment(request)


class PasswordView(Plain):
    pass


def test_what_is_left_out_unless_named(urls, browser, settings, caplog):
    """Logins, passwords and the admin; the log says nothing, because they are meant to be so."""
    urls(
        login,
        auth_views.LoginView.as_view(),
        auth_views.LogoutView.as_view(),
        auth_views.PasswordChangeView.as_view(),
        auth_views.PasswordResetView.as_view(),
        PasswordView.as_view(),
        path("view6/", pay(), name="set-password"),
        path("i18n/", include("django.conf.urls.i18n")),
    )

    assert not is_replay(twice(browser))
    assert not is_replay(twice(browser, "/view5/"))
    assert not is_replay(twice(browser, "/view6/"))
    assert not is_replay(twice(browser, "/i18n/setlang/"))
    for url in ("/view1/", "/view2/", "/view3/", "/view4/", "/admin/auth/user/add/", "/admin/login/"):
        post(browser, url=url)
    assert not IdempotencyRecord.objects.exists()
    assert not [record for record in caplog.records if record.name == "django_idempotency"]

    settings.IDEMPOTENCY = {"PROTECT": ["*", "view0/", "/view5/"]}
    assert is_replay(twice(browser, key="other"))
    assert is_replay(twice(browser, "/view5/", key="other"))
    assert not is_replay(twice(browser, "/view6/", key="other"))


def test_PROTECT_names_what_is_protected(urls, browser, settings):
    """Then the rest is not."""
    settings.IDEMPOTENCY = {"PROTECT": ["api/*", "view0/"]}
    urls(pay(), pay(), path("api/payments/<int:pk>/", pay()))

    assert is_replay(twice(browser))
    assert not is_replay(twice(browser, "/view1/"))
    assert is_replay(twice(browser, "/api/payments/7/"))


def test_EXEMPT_names_what_is_not(urls, browser, settings):
    """It wins over PROTECT, and a decorator over both."""
    settings.IDEMPOTENCY = {"PROTECT": ["*"], "EXEMPT": ["view0/", "api/*", "view1/"]}
    urls(pay(), idempotent(pay()), pay(), path("api/payments/<int:pk>/", pay()))

    assert not is_replay(twice(browser))
    assert is_replay(twice(browser, "/view1/"))
    assert is_replay(twice(browser, "/view2/"))
    assert not is_replay(twice(browser, "/api/payments/7/"))


@pytest.mark.parametrize(
    ("pattern", "route", "expected"),
    [
        ("api/payments/", "api/payments/", True),
        ("/api/payments/", "api/payments/", True),
        ("api/payments/", "api/payments/<int:pk>/", False),
        ("api/*", "api/payments/<int:pk>/", True),
        ("*/payments/*", "api/payments/<int:pk>/", True),
        ("api/payments/<int:pk>/", "api/payments/<int:pk>/", True),
        ("api/payments/", r"api/^payments/$", True),
        ("api/payments/<pk>/refund/", r"api/^payments/(?P<pk>[^/.]+)/refund/$", True),
        (r"api/^payments/(?P<pk>[^/.]+)/refund/$", r"api/^payments/(?P<pk>[^/.]+)/refund/$", True),
        ("api/payments/*", r"api/^payments/(?P<pk>[^/.]+)/refund/$", True),
        (r"api/^payments/(?P<pk>[^/.]+)/refund/$", r"api/payments/(?P<pk>[^/.]+)/refund/$", True),
        ("payments/", "api/payments/", False),
        ("a.i/", "api/", False),
    ],
)
def test_patterns(pattern, route, expected):
    """As the URLconf spells a route, or as a person does; `*` for any characters, and nothing else is special."""
    assert matches(pattern, route) is expected


def test_a_readable_route():
    """Of a router's regular expressions."""
    assert readable(r"api/^payments/(?P<pk>[^/.]+)/$") == "api/payments/<pk>/"


def test_routers_and_namespaces(urls, api):
    """Included URLconfs and routers are routes like others."""
    router = DefaultRouter()
    router.register("payments", PaymentSet, basename="payment")
    urls(path("api/", include((router.urls, "shop"), namespace="v1")), re_path(r"^v(\d)/", include(router.urls)))

    assert is_replay(twice(api, "/api/payments/"))
    assert is_replay(twice(api, "/api/payments/transfer/"))
    assert is_replay(twice(api, "/v2/payments/"))
    assert Payment.objects.count() == 3


@pytest.mark.parametrize("value", ["api/*", [5], [""], {"api/*": 1}, None])
@pytest.mark.parametrize("name", ["PROTECT", "EXEMPT"])
def test_patterns_of_another_shape_are_an_error(settings, name, value):
    """When Django starts."""
    from django_idempotency import conf

    settings.IDEMPOTENCY = {name: value}

    with pytest.raises(PolicyError, match=rf"IDEMPOTENCY\['{name}'\] must be a list of route patterns"):
        conf.resolved()


# --- options ---


def test_the_options_of_the_setting_hold(urls, browser, settings):
    """And those of a class are nearer."""
    settings.IDEMPOTENCY = {"REQUIRED": True, "METHODS": ["POST", "PUT"]}
    urls(every_method, derived(Plain, idempotency=Policy(required=False)).as_view())

    assert post(browser, url="/view0/", key=None).json()["code"] == "key-missing"
    assert browser.put("/view0/", headers=KEY).status_code == 200
    assert is_replay(browser.put("/view0/", headers=KEY))
    assert browser.patch("/view0/", headers=KEY).status_code == 200
    assert not is_replay(browser.patch("/view0/", headers=KEY))
    assert post(browser, url="/view1/", key=None).status_code == 201


def test_a_policy_of_as_view(urls, browser):
    """It stands in for the class's."""
    urls(derived(Plain, idempotency=Policy()).as_view(idempotency=Policy(required=True)))

    assert post(browser, url="/view0/", key=None).status_code == 400


def test_the_views_own_objects_are_untouched():
    """The project's functions and classes are what they were: the middleware has its own copies."""
    view, plain = login_required(pay()), derived(Plain)
    before = dict(vars(view)), dict(vars(plain)), view.__closure__[0].cell_contents

    decide(view, "x/", "", "POST")
    decide(plain.as_view(), "x/", "", "POST")

    assert (dict(vars(view)), dict(vars(plain)), view.__closure__[0].cell_contents) == before


def test_placed_once(urls, browser, monkeypatch):
    """A view is looked at once, whatever number of requests come for it."""
    from django_idempotency.protection import by_default

    view = pay()
    urls(view)
    post(browser, url="/view0/")
    found = decide(view, "view0/", "", "POST")
    post(browser, url="/view0/")

    assert decide(view, "view0/", "", "POST") is found
    assert by_default.placement.cache_info().hits > 0 or by_default.decide.cache_info().hits > 0


def test_drf_adds_an_action_meanwhile():
    """With the first request, in another thread: whoever looks at the view at that moment sees it as it was."""

    class Growing(dict):
        def items(self):
            for item in super().items():
                yield item
                self["head"] = "list"

    view = ObjectSet.as_view({"get": "list", "post": "create"})
    for layer in (view, view.__wrapped__):  # csrf_exempt() has copied the attribute
        layer.actions = Growing(layer.actions)

    assert decide(view, "x/", "", "POST")[1].how == "middleware"


def test_guards_are_named():
    """For the audit: what decides who may call it, before the handler."""
    view = login_required(method_decorator(login_required, name="post")(derived(Plain)).as_view())

    assert decide(view, "x/", "", "POST")[1].guards == ("login_required", "login_required")
    assert decide(ObjectSet.as_view({"post": "create"}), "x/", "", "POST")[1].guards == (
        "TokenAuthentication",
        "IsAuthenticated",
        "IsVipsObject",
    )


def test_a_view_that_a_pattern_gives_another(urls, user, browser, caplog):
    """The other may be behind a guard: left out, and named."""
    user.first_name = "vip"
    user.save()
    urls(path("view0/", dispatching, {"view": nameless_guard(pay())}), path("view1/", dispatching, {"view": 5}))

    assert not is_replay(twice(browser))

    assert Payment.objects.count() == 2
    assert "its URL pattern gives it something to call" in caplog.text
    [(view, methods, why)] = unplaced()
    assert (view.route, methods) == ("view0/", ["POST", "PUT", "PATCH", "DELETE"])
    assert "something to call" in why


def test_an_object_without_a_hash_is_left_out():
    """It is no function, and is not kept."""
    view = Callable_()
    type(view).__hash__ = None
    try:
        assert "no function" in place_for(view, "x/", "", "POST")[1].why
    finally:
        del type(view).__hash__


def test_a_view_that_is_left_out_is_said_once(urls, browser, caplog):
    """With the reason and what to do."""
    urls(vip_only(pay()), GuardObject(pay()))

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        for url in ("/view0/", "/view1/", "/view0/", "/view1/"):
            post(browser, url=url)

    lines = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
    assert len(lines) == 2
    assert all("@idempotent" in line and "is not protected" in line for line in lines)


# --- servers ---


def test_an_asynchronous_server(urls, user):
    """A plain view on its thread, protected; an async one as it is."""
    urls(login_required(pay()), every_method)
    client = AsyncClient(raise_request_exception=False)
    client.force_login(user)

    async def requests() -> list[Any]:
        kwargs = {"data": {"amount": 10}, "content_type": "application/json", "headers": KEY}
        return [
            await client.post("/view0/", **kwargs),
            await client.post("/view0/", **kwargs),
            await client.get("/view1/"),
            await AsyncClient().post("/view0/", **kwargs),
        ]

    first, second, get, anonymous = async_to_sync(requests)()

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert is_replay(second)
    assert get.headers["Handle"] == "None"
    assert anonymous.status_code == 302
    assert Payment.objects.count() == 1


# --- MIDDLEWARE ---


def test_a_middleware_after_ours_is_an_error(settings):
    """If Django would call it after ours: it may be a guard. Others may come after."""
    csrf = "django.middleware.csrf.CsrfViewMiddleware"
    check_middleware([csrf, MIDDLEWARE, "django.middleware.common.CommonMiddleware", "no.such.Middleware"])
    settings.MIDDLEWARE = [MIDDLEWARE, csrf]

    with pytest.raises(PolicyError, match="Put ours last") as error:
        IdempotencyMiddleware(lambda request: None)
    assert str(error.value).index(f'"{csrf}"') < str(error.value).index(f'"{MIDDLEWARE}"')
    with pytest.raises(PolicyError, match="Put ours last"):
        Client().get("/")


def test_two_are_an_error(settings):
    """A subclass is one of ours too."""
    with pytest.raises(PolicyError, match="leave one of them out"):
        check_middleware([MIDDLEWARE, f"{__name__}.Ours"])


class Ours(IdempotencyMiddleware):
    pass
