"""E003 to E005, E007, W002, W003, W006: what the URLconf shows."""

import sys
from functools import partial, wraps

import pytest
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from django.views.generic import CreateView
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.authtoken.views import ObtainAuthToken
from rest_framework.decorators import action, api_view, permission_classes
from rest_framework.permissions import AllowAny, BasePermission, IsAuthenticated, IsAuthenticatedOrReadOnly
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from django_idempotency import Policy, idempotent, once
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.checks import views
from tests.checks.views import Closed, CreatePayment, Payments, Plain, Protected
from tests.ids import spelt

MISSING = "tests.checks.missing"


def router(viewset, name="payments"):
    routes = DefaultRouter()
    routes.register(name, viewset, basename=name)
    return path("api/", include(routes.urls))


def derived(base, name="Derived", **attributes):
    return type(name, (base,), {"__module__": __name__, **attributes})


# --- silence ---


def test_a_right_project_is_silent(ids, settings):
    """Every way in which a view can be protected, several routes on one view, and views that are none of ours."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    assert (
        ids(
            views.function,
            views.unprotected,
            views.api_function,
            partial(views.function),
            Plain.as_view(),
            Closed.as_view(),
            Protected.as_view(),
            method_decorator(idempotent, name="post")(derived(Plain)).as_view(),
            method_decorator(idempotent, name="dispatch")(derived(Plain)).as_view(),
            method_decorator([login_required, idempotent], name="post")(derived(Plain)).as_view(),
            idempotent(Plain.as_view()),
            CreatePayment.as_view(),
            router(Payments),
            path("twice/", Protected.as_view()),
            re_path(r"^(?P<version>v\d)/", include(([path("pay/", Protected.as_view(), name="pay")], "v"))),
        )
        == []
    )


@pytest.mark.parametrize(
    "urlconf",
    ["tests.no.such.urls", type("NoPatterns", (), {}), type("Odd", (), {"urlpatterns": [5, "x"]}), 5],
    ids=["missing", "without patterns", "odd entries", "number"],
)
def test_a_broken_urlconf_is_djangos_to_report(ids, settings, urlconf):
    """Our checks neither hide its error nor fail of it."""
    settings.ROOT_URLCONF = urlconf

    assert ids() == []


def test_no_urlconf_at_all(ids, settings):
    """A worker of tasks has none."""
    del settings.ROOT_URLCONF

    assert ids() == []


REQUIRED = {"idempotency": Policy(required=True)}


@pytest.fixture
def silent():
    """What may look wrong and is not."""
    return {
        "E003: a method's good option, over its class's bad one": derived(
            Closed, idempotency=Policy(store="redis"), post=idempotent(store="default")(pay)
        ).as_view(),
        "E004: a base's protected dispatch inside the LoginRequiredMixin that comes before it": type(
            "Right", (LoginRequiredMixin, method_decorator(idempotent, name="dispatch")(derived(Plain))), {}
        ).as_view(),
        "E005: a class with a protected method": derived(Closed, **REQUIRED, post=idempotent(pay)).as_view(),
        "E005: whichever route of the class is looked at": router(
            derived(
                ViewSet,
                **REQUIRED,
                permission_classes=[IsAuthenticated],
                list=pay,
                refund=action(detail=True, methods=["post"])(idempotent(named("refund"))),
            )
        ),
        "W002: a scope": derived(Protected, permission_classes=[], idempotency=Policy(scope=str)).as_view(),
        "W002: permissions that a method of the project's decides": derived(
            Protected, permission_classes=[], get_permissions=lambda self: [IsAuthenticated()]
        ).as_view(),
        "W002: a view that is only read": type(
            "ReadOnly", (IdempotencyMixin, APIView), {"permission_classes": [AllowAny], "get": pay}
        ).as_view(),
        "W003: unprotected": LoginView.as_view(),
        "W003: unprotected, of tokens": ObtainAuthToken.as_view(),
        **{f"W003: {name}": derived(Protected, name).as_view() for name in ("BloginPost", "Catalogin", "LoginsReport")},
        "W006: the option `methods` names it": api_view(["PUT"])(
            permission_classes([IsAuthenticated])(idempotent(methods=["PUT"])(views.unprotected))
        ),
    }


def test_what_may_look_wrong_and_is_not(ids, silent):
    """The merged policy counts, the order that is meant, and a word that is a word."""
    assert {name: found for name, view in silent.items() if (found := ids(view))} == {}


def test_right_functions_of_once_are_silent(ids):
    """Each operation has one; a function that is decorated again, as at a reload, is the same one."""
    for function in (on_invoice_paid, on_invoice_paid):
        once("invoice.paid", key=str)(function)
    once("invoice.receipt", key=str)(receipt)

    assert ids(Protected.as_view()) == []


# --- E003 ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scope": MISSING}, f"'scope': '{MISSING}' cannot be imported"),
        ({"store": "redis"}, "'store': IDEMPOTENCY['STORES'] has no 'redis'"),
        ({"using": "nowhere"}, "'using': DATABASES has no 'nowhere'"),
    ],
    ids=["path", "store", "using"],
)
@pytest.mark.parametrize(
    "place", ["function", "api_view", "mixin", "action", "method", "dispatch", "as_view", "callable"]
)
def test_E003(check, place, options, says):
    """A bad option at any view is named, with the view, wherever it was given."""
    policy = Policy(**options)
    decorator = idempotent(**options)
    view, name = {
        "function": lambda: (login_required(decorator(views.unprotected)), "views.unprotected"),
        "api_view": lambda: (
            api_view(["POST"])(permission_classes([IsAuthenticated])(decorator(views.unprotected))),
            "views.unprotected",
        ),
        "mixin": lambda: (derived(Protected, idempotency=policy).as_view(), "Derived"),
        "action": lambda: (
            router(
                derived(
                    ViewSet,
                    pay=action(detail=False, methods=["post"])(decorator(named("pay"))),
                    permission_classes=[IsAuthenticated],
                )
            ),
            "Derived.pay",
        ),
        "method": lambda: (method_decorator(decorator, name="post")(derived(Plain)).as_view(), "Derived.post"),
        "dispatch": lambda: (method_decorator(decorator, name="dispatch")(derived(Plain)).as_view(), "Derived"),
        "as_view": lambda: (decorator(derived(Plain).as_view()), "Derived"),
        "callable": lambda: (derived(object, __call__=decorator(pay))(), "Derived"),
    }[place]()

    [message] = check(view)

    assert message.id == "django_idempotency.E003"
    assert name in message.msg
    assert says in message.msg


def pay(self, request):
    return Response()


def named(name):
    """A method that DRF takes for an action of this name."""

    def method(self, request, pk=None):
        return Response()

    method.__name__ = name
    return method


def test_E003_names_the_nearest_option_that_is_bad(check):
    """A method's option over a good class's."""
    view = derived(Protected, post=idempotent(scope=MISSING)(pay))

    [message] = check(view.as_view())

    assert message.id == "django_idempotency.E003"
    assert "Derived.post (route 'view0/')" in message.msg


def test_a_view_with_several_routes_is_told_of_once(check):
    """A router makes two routes of each action; the class is named once, and a method with options of its own."""
    view = derived(Payments, idempotency=Policy(scope=MISSING))

    messages = check(router(view), path("again/", include(router(view).url_patterns)))

    assert [message.msg.split(" (")[0].rpartition(".Derived")[2] for message in messages] == ["", ".refund"]


@pytest.mark.parametrize("options", [{"scope": MISSING}, {"store": "redis"}, {"using": "nowhere"}], ids=spelt)
def test_E003_for_events(check, options):
    """A function of `@once` has no route; it is known once it is imported."""
    once("invoice.paid", key=str, **options)(on_invoice_paid)

    [message] = check(Protected.as_view())

    assert message.id == "django_idempotency.E003"
    assert "tests.checks.test_views.on_invoice_paid: Option " in message.msg


def test_a_path_that_imports_more_functions_is_followed(check, monkeypatch):
    """Resolving an option imports modules, and their functions of `@once` are checked as well."""
    monkeypatch.delitem(sys.modules, "tests.checks.late", raising=False)
    once("invoice.paid", key=str, scope="tests.checks.late.scope")(on_invoice_paid)

    [message] = check(views.unprotected)

    assert message.id == "django_idempotency.E003"
    assert "tests.checks.late.on_invoice_refunded" in message.msg


def on_invoice_paid(event):
    return None


# --- E004 ---


def dispatch(self, request, *args, **kwargs):
    return super(type(self), self).dispatch(request, *args, **kwargs)


class LateMixin(IdempotencyMixin, APIView):
    """Whose subclasses' handlers are put in place after the class was made."""

    permission_classes = [IsAuthenticated]

    def post(self, request):
        return Response()


class LateGuard(LateMixin):
    pass


LateGuard.post = method_decorator(login_required)(LateMixin.post)


MISPLACED = {
    "around the dispatch of LoginRequiredMixin": lambda: method_decorator(idempotent, name="dispatch")(
        type("Wrong", (LoginRequiredMixin, Plain), {})
    ),
    "on a dispatch of one's own": lambda: type(
        "Wrong", (LoginRequiredMixin, Plain), {"dispatch": idempotent(dispatch)}
    ),
    "around a dispatch with login_required": lambda: method_decorator([idempotent, login_required], name="dispatch")(
        derived(Plain, "Wrong")
    ),
    "around the dispatch of a view with login_required on its post": lambda: method_decorator(
        idempotent, name="dispatch"
    )(method_decorator(login_required, name="post")(derived(Plain, "Wrong"))),
    "around the dispatch of a DRF view": lambda: method_decorator(idempotent, name="dispatch")(
        derived(Closed, "Wrong")
    ),
    "around login_required on a method": lambda: method_decorator([idempotent, login_required], name="post")(
        derived(Plain, "Wrong")
    ),
    "around a decorator that hides that its view is async": lambda: method_decorator(idempotent, name="post")(
        derived(View, "Wrong", post=hiding(async_post))
    ),
    "the mixin around a guard": lambda: LateGuard,
}


async def async_post(self, request):
    return Response()


def hiding(method):
    """A decorator that knows no async views."""
    return wraps(method)(lambda *args: method(*args))


@pytest.mark.parametrize("case", MISPLACED)
def test_E004(check, case):
    """A wrong order that no decorator could see is told by the class that the URLconf leads to."""
    view = MISPLACED[case]()

    [message] = check(view.as_view())

    assert message.id == "django_idempotency.E004"
    assert view.__name__ in message.msg
    assert "@idempotent must" in message.msg or "async" in message.msg


# --- E005 ---


@pytest.mark.parametrize(
    "view",
    [
        derived(Closed, idempotency=Policy(required=True)),
        derived(Plain, idempotency=Policy(required=True)),
    ],
    ids=["DRF", "plain"],
)
def test_E005(check, view):
    """A Policy on a class that nothing protects looks like protection and is none."""
    [message] = check(view.as_view())

    assert message.id == "django_idempotency.E005"
    assert "Derived" in message.msg
    assert "IdempotencyMixin" in message.hint


# --- E007 ---


class OtherRouter:
    """Everything of the app's lives in the other database."""

    def db_for_write(self, model, **hints):
        return "other" if model._meta.app_label == "app" else None


@pytest.mark.parametrize(
    "view",
    [
        CreatePayment,
        derived(Protected, queryset=Payment.objects.all()),
        derived(Protected, serializer_class=views.PaymentSerializer),
        method_decorator(idempotent, name="post")(derived(CreateView, model=Payment, fields=["amount"])),
    ],
    ids=["generic", "queryset", "serializer", "plain"],
)
def test_E007(check, settings, view):
    """The model of a generic view is written to one database, the record to another."""
    settings.DATABASE_ROUTERS = [OtherRouter()]

    [message] = check(view.as_view())

    assert message.id == "django_idempotency.E007"
    assert "app.Payment to database 'other'" in message.msg
    assert "store 'default' keeps its record in 'default'" in message.msg
    assert "using='other'" in message.hint


@pytest.mark.parametrize("using", ["other", lambda request: "other"], ids=["alias", "callable"])
def test_using_mends_E007(ids, settings, using):
    """With the option the record is kept where the view writes; a callable is asked at the request."""
    settings.DATABASE_ROUTERS = [OtherRouter()]

    assert "E007" not in ids(derived(CreatePayment, idempotency=Policy(using=using)).as_view())


def test_E007_the_other_way_round(ids):
    """`using` that names another database than the model's."""
    assert "E007" in ids(derived(CreatePayment, idempotency=Policy(using="other")).as_view())


# --- W002 ---


class Custom(BasePermission):
    """Who knows what it asks."""


@pytest.mark.parametrize(
    ("permissions", "warned"),
    [
        ([], True),
        ([AllowAny], True),
        ([AllowAny, AllowAny], True),
        ([IsAuthenticated], False),
        ([AllowAny, IsAuthenticated], False),
        ([IsAuthenticatedOrReadOnly], False),
        ([IsAuthenticated | AllowAny], False),
        ([Custom], False),
    ],
    ids=spelt,
)
def test_W002(check, permissions, warned):
    """A DRF view without a permission that asks who it is: all who are nobody share their keys."""
    messages = check(derived(Protected, permission_classes=permissions).as_view())

    assert [message.id for message in messages] == (["django_idempotency.W002"] if warned else [])
    assert all("Derived" in message.msg and "`scope`" in message.hint for message in messages)


def test_W002_reads_the_permissions_of_functions_and_actions(ids):
    """`@permission_classes` and the arguments of `@action` count like a class's attribute."""
    closed = derived(Payments, idempotency=Policy(scope=str))
    opened = derived(
        Payments, "Opened", refund=action(detail=True, methods=["post"], permission_classes=[])(Payments.refund)
    )

    assert ids(api_view(["POST"])(permission_classes([])(idempotent(views.unprotected)))) == ["W002"]
    assert ids(router(closed)) == []
    assert ids(router(opened)) == ["W002"]


def own_guard(view):
    """As a project writes one."""

    @wraps(view)
    def guarded(request, *args, **kwargs):
        return view(request, *args, **kwargs)

    return guarded


def asks_itself(request):
    if not request.user.is_authenticated:
        raise PermissionDenied


class OwnDispatch(Plain):
    def dispatch(self, request, *args, **kwargs):
        return super().dispatch(request, *args, **kwargs)


OPEN = {
    "function": idempotent(views.unprotected),
    "behind what is no guard": require_POST(idempotent(views.unprotected)),
    "as_view": idempotent(derived(Plain).as_view()),
    "method": derived(Plain, post=idempotent(Plain.post)).as_view(),
    "method_decorator": method_decorator(idempotent, name="post")(derived(Plain)).as_view(),
}
MAY_BE_CLOSED = {
    "a guard": login_required(idempotent(views.unprotected)),
    "a decorator of the project's own": own_guard(idempotent(views.unprotected)),
    "a handler that asks": idempotent(asks_itself),
    "a scope": idempotent(scope=str)(views.unprotected),
    "a dispatch of the project's own": idempotent(OwnDispatch.as_view()),
    "a mixin": method_decorator(idempotent, name="post")(type("Closed", (LoginRequiredMixin, Plain), {})).as_view(),
    "a guard at the method": derived(Plain, post=method_decorator([login_required, idempotent])(Plain.post)).as_view(),
}


@pytest.mark.parametrize("name", OPEN)
def test_W002_of_plain_views(check, name):
    """Where nothing asks who calls, as far as can be seen."""
    [message] = check(OPEN[name])

    assert message.id == "django_idempotency.W002"
    assert "login_required" in message.hint


@pytest.mark.parametrize("name", MAY_BE_CLOSED)
def test_W002_is_silent_about_plain_views_that_may_be_closed(ids, name):
    """In doubt, too."""
    assert ids(MAY_BE_CLOSED[name]) == []


@pytest.mark.parametrize("exempt", [True, False])
def test_W002_of_a_plain_view_that_checks_csrf(ids, settings, exempt):
    """It is for forms, whose keys cannot be guessed, so anonymous ones do not collide."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    view = idempotent(views.unprotected)

    assert ids(csrf_exempt(view) if exempt else view) == (["W002"] if exempt else [])


@pytest.mark.parametrize("login", [True, False])
def test_W002_of_a_project_that_asks_for_a_login(ids, settings, login):
    """LoginRequiredMiddleware lets in who calls a view that says `login_not_required`."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    view = idempotent(views.unprotected)

    assert ids(view if login else login_not_required(view)) == ([] if login else ["W002"])


def test_the_settings_scope_mends_W002(ids, settings):
    """The project's option is a view's."""
    settings.IDEMPOTENCY = {"SCOPE": str}

    assert ids(derived(Protected, permission_classes=[]).as_view()) == []


# --- W003 ---


@pytest.mark.parametrize(
    "entry",
    [
        idempotent(LoginView.as_view()),
        method_decorator(idempotent, name="dispatch")(derived(LoginView)).as_view(),
        type("Tokens", (IdempotencyMixin, ObtainAuthToken), {"idempotency": Policy(scope=str)}).as_view(),
        derived(Protected, "UserLoginView").as_view(),
        derived(Protected, "SignIn").as_view(),
        path("session/", Protected.as_view(), name="log-out"),
    ],
    ids=["LoginView", "subclass", "obtain_auth_token", "UserLoginView", "SignIn", "url name"],
)
def test_W003(check, entry):
    """A view that logs in changes the session, which a replay cannot."""
    [message] = check(entry)

    assert message.id == "django_idempotency.W003"


LIBRARIES = {
    "allauth.account.views._login.LoginView": True,
    "allauth.account.views._signup.SignupView": True,
    "allauth.account.views._email_change.EmailView": False,
    "allauth.account.views._password_reset.PasswordResetView": False,
    "allauth.headless.account.views.SessionView": True,
    "allauth.headless.base.views.AuthenticatedAPIView": False,
    "allauth.headless.mfa.views.AuthenticateView": True,
    "allauth.headless.mfa.views.ManageTOTPView": False,
    "dj_rest_auth.registration.views.RegisterView": True,
    "dj_rest_auth.registration.views.ResendEmailVerificationView": False,
    "dj_rest_auth.views.LoginView": True,
    "dj_rest_auth.views.UserDetailsView": False,
    "djoser.views.TokenCreateView": True,
    "djoser.views.UserViewSet": False,
    "knox.views.LogoutAllView": True,
    "oauth2_provider.views.application.ApplicationRegistration": False,
    "oauth2_provider.views.base.TokenView": True,
    "rest_framework_simplejwt.views.TokenRefreshView": True,
    "rest_framework_simplejwt.views.TokenVerifyView": False,
}


@pytest.mark.parametrize(("path", "warned"), LIBRARIES.items())
def test_the_views_of_packages_that_log_in_are_known(ids, path, warned):
    """Those that give a session, a cookie or a token, and not their neighbours: registration, e-mails, accounts."""
    module, _, name = path.rpartition(".")
    theirs = type(name, (Closed,), {"__module__": module})

    assert ids(type("Mine", (IdempotencyMixin, theirs), {}).as_view()) == (["W003"] if warned else [])


def test_a_view_silences_a_warning_for_itself(ids):
    """Its class or its function does, where the project knows better; errors stay."""

    def sign_in(request):
        return Response()

    sign_in.idempotency_silenced_checks = ["W003"]
    silenced = derived(Protected, "LoginView", idempotency_silenced_checks=["django_idempotency.W003"])
    bad = derived(silenced, "LoginView", idempotency=Policy(scope=MISSING), idempotency_silenced_checks=["E003"])

    assert (
        ids(
            silenced.as_view(),
            login_required(idempotent(sign_in)),
            api_view(["POST"])(permission_classes([IsAuthenticated])(idempotent(sign_in))),
        )
        == []
    )
    assert ids(derived(Protected, "LoginView").as_view()) == ["W003"]
    assert ids(bad.as_view()) == ["E003"]


# --- W017 ---


class TokenAuthentication(BaseAuthentication):
    """Of a machine, without a user."""


class Users(SessionAuthentication):
    """The project's own, and yet of users."""


HasAPIKey = type("HasAPIKey", (BasePermission,), {"__module__": "rest_framework_api_key.permissions"})


@pytest.mark.parametrize(
    ("authenticators", "permissions", "warned"),
    [
        ([TokenAuthentication], [Custom], True),
        ([SessionAuthentication, TokenAuthentication], [Custom], True),
        ([SessionAuthentication], [HasAPIKey], True),
        ([TokenAuthentication], [derived(IsAuthenticated)], False),
        ([SessionAuthentication, Users], [Custom], False),
    ],
    ids=["token", "token too", "API key", "a user is asked for", "users"],
)
def test_W017(check, authenticators, permissions, warned):
    """A view whose callers may be known by a credential alone: a renewed one is somebody else's."""
    attributes = {"authentication_classes": authenticators, "permission_classes": permissions}

    messages = check(derived(Protected, **attributes).as_view())

    assert [message.id for message in messages] == (["django_idempotency.W017"] if warned else [])
    assert all("`scope`" in message.hint for message in messages)
    assert check(derived(Protected, idempotency=Policy(scope=str), **attributes).as_view()) == []


# --- E020 ---


def test_E020(check, settings, monkeypatch):
    """Django calls no async view in a transaction around it."""
    view = idempotent(scope=str)(async_view)
    assert check(view) == []
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    [message] = check(view)

    assert message.id == "django_idempotency.E020"
    assert "@transaction.non_atomic_requests" in message.msg
    assert check(idempotent(scope=str)(plain_view)) == []
    assert check(transaction.non_atomic_requests(idempotent(scope=str)(async_view))) == []


async def async_view(request):
    return HttpResponse()


def plain_view(request):
    return HttpResponse()


# --- W006 ---


def test_W006(check):
    """A decorator on a PUT does nothing as long as `methods` leaves PUT out."""
    view = api_view(["PUT"])(permission_classes([IsAuthenticated])(idempotent(views.unprotected)))

    [message] = check(view)

    assert message.id == "django_idempotency.W006"
    assert "answers PUT, but its option 'methods' is PATCH, POST" in message.msg


# --- functions of @once ---


def receipt(event):
    """Another function for the same event."""


def test_E011(check):
    """Two functions that share an operation would share results: the second would not run."""
    once("invoice.paid", key=str)(on_invoice_paid)
    once("invoice.paid", key=str)(receipt)

    (message,) = check(path("", views.unprotected))

    assert message.id == "django_idempotency.E011"
    assert "on_invoice_paid" in message.msg
    assert "receipt" in message.msg
