"""Where the decorator may stand: each wrong order is an error that shows the right one, at the line that has it."""

import functools
import inspect
import textwrap
import types

import adrf.viewsets
import pytest
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import login_not_required, login_required, permission_required, user_passes_test
from django.contrib.auth.mixins import LoginRequiredMixin, PermissionRequiredMixin, UserPassesTestMixin
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from rest_framework.decorators import action, api_view, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from django_idempotency import Policy, idempotent, once
from django_idempotency.core.policy import POLICY
from django_idempotency.exceptions import PolicyError
from django_idempotency.rest_framework import IdempotencyMixin


def view(request):
    return HttpResponse()


async def async_view(request):
    return HttpResponse()


class PlainView(View):
    def post(self, request):
        return HttpResponse()


class GuardedView(LoginRequiredMixin, PlainView):
    pass


class DRFView(APIView):
    def post(self, request):
        return HttpResponse()


def hiding(view):
    """A decorator that knows no async views."""
    return functools.wraps(view)(lambda request: view(request))


def post(view_class, user=None):
    """Send a request to *view_class*: what only a request can show raises here."""
    request = RequestFactory().post("/")
    request.user = user
    response = view_class.as_view()(request)
    return response.send(None) if inspect.iscoroutine(response) else response


def guarded_class(*decorators):
    """A plain view whose `post` has *decorators*, the outermost first."""
    return method_decorator(list(decorators), name="post")(type("MyView", (PlainView,), {}))


INSIDE_LOGIN = "@login_required\n@idempotent\ndef view(request): ..."
INSIDE_API_VIEW = '@api_view(["POST"])\n@idempotent\ndef view(request): ...'
WRONG = {
    "outside @api_view": (lambda: idempotent(api_view(["POST"])(view)), INSIDE_API_VIEW),
    "outside csrf_exempt outside @api_view": (
        lambda: idempotent(csrf_exempt(api_view(["POST"])(view))),
        INSIDE_API_VIEW,
    ),
    "outside @action": (
        lambda: idempotent(action(detail=True, methods=["post"])(lambda self, request, pk=None: None)),
        '@action(detail=True, methods=["post"])\n@idempotent\ndef ',
    ),
    "around as_view() of a DRF view": (
        lambda: idempotent(DRFView.as_view()),
        "class DRFView(IdempotencyMixin, ...): ...",
    ),
    "around as_view() of a viewset": (
        lambda: idempotent(type("Payments", (ViewSet,), {"create": view}).as_view({"post": "create"})),
        "class Payments(IdempotencyMixin, ...): ...",
    ),
    "around as_view() of a guarded view": (
        lambda: idempotent(GuardedView.as_view()),
        '@method_decorator(idempotent, name="post")\nclass GuardedView(LoginRequiredMixin, View): ...',
    ),
    "around as_view() of a view with login_required on its dispatch": (
        lambda: idempotent(method_decorator(login_required, name="dispatch")(type("V", (PlainView,), {})).as_view()),
        '@method_decorator(idempotent, name="post")\nclass V(LoginRequiredMixin, View): ...',
    ),
    "around as_view() of a view with login_required on its post": (
        lambda: idempotent(guarded_class(login_required).as_view()),
        '@method_decorator(idempotent, name="post")\nclass MyView(LoginRequiredMixin, View): ...',
    ),
    "outside login_required": (lambda: idempotent(login_required(view)), INSIDE_LOGIN),
    "outside login_required, with csrf_exempt between": (
        lambda: idempotent(csrf_exempt(login_required(view))),
        INSIDE_LOGIN,
    ),
    "outside permission_required": (
        lambda: idempotent(permission_required("app.add_payment", raise_exception=True)(view)),
        INSIDE_LOGIN,
    ),
    "outside user_passes_test": (lambda: idempotent(user_passes_test(lambda user: True)(view)), INSIDE_LOGIN),
    "outside staff_member_required": (lambda: idempotent(staff_member_required(view)), INSIDE_LOGIN),
    "around a method with login_required": (
        lambda: idempotent(method_decorator(login_required)(lambda self, request: None)),
        "@login_required\n@idempotent\ndef ",
    ),
    "on a staticmethod": (lambda: idempotent(staticmethod(view)), "@staticmethod\n@idempotent\ndef view(request): ..."),
    "on a classmethod": (lambda: idempotent(classmethod(view)), "@classmethod\n@idempotent\ndef view(request): ..."),
    "on a class": (
        lambda: idempotent(PlainView),
        '@method_decorator(idempotent, name="post")  # a plain Django view\nclass PlainView(View): ...',
    ),
    "on what cannot be called": (lambda: idempotent(5), "5 cannot be called"),
    "around a decorator that hides that its view is async": (lambda: idempotent(hiding(async_view)), "`async def`"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("options", [False, True], ids=["bare", "with options"])
def test_a_wrong_order_shows_the_right_one(case, options, monkeypatch):
    """At decoration, whatever stands between, with options and without."""
    wrong, right = WRONG[case]
    if options:
        monkeypatch.setitem(globals(), "idempotent", idempotent(required=True))

    with pytest.raises(PolicyError) as caught:
        wrong()

    assert textwrap.dedent(right) in "\n".join(line.strip() for line in str(caught.value).splitlines())


def made_in(module):
    """A function as if it were written in *module*."""
    return types.FunctionType((lambda view, *args, **kwargs: view).__code__, {"__name__": module})


@pytest.mark.parametrize("module", ["guardian.decorators", "rules.contrib.views"])
def test_other_packages_guards_are_known(module):
    """django-guardian's and django-rules' decorators, wherever they are seen."""
    guard = made_in(module)

    with pytest.raises(PolicyError, match="must stand inside"):
        idempotent(guard)
    with pytest.raises(PolicyError, match="must not stand around the dispatch"):
        idempotent(method_decorator(guard, name="dispatch")(type("V", (PlainView,), {})).as_view())


@pytest.mark.parametrize("module", ["guardian.mixins", "braces.views._access"])
def test_other_packages_mixins_are_known(module):
    """django-guardian's and django-braces' mixins decide in their dispatch."""
    mixin = type("LoginRequiredMixin", (), {"dispatch": made_in(module)})

    with pytest.raises(PolicyError, match="must not stand around the dispatch"):
        idempotent(type("V", (mixin, PlainView), {}).as_view())


WRONG_AT_A_REQUEST = {
    "method_decorator on the dispatch of LoginRequiredMixin": lambda: method_decorator(idempotent, name="dispatch")(
        type("V", (LoginRequiredMixin, PlainView), {})
    ),
    "method_decorator on the dispatch of PermissionRequiredMixin": lambda: method_decorator(
        idempotent(required=True), name="dispatch"
    )(type("V", (PermissionRequiredMixin, PlainView), {"permission_required": "x"})),
    "method_decorator on a dispatch of one's own": lambda: method_decorator(idempotent, name="dispatch")(
        type(
            "V",
            (UserPassesTestMixin, PlainView),
            {"dispatch": lambda self, request: super(type(self), self).dispatch(request)},
        )
    ),
    "the decorator on a dispatch of one's own": lambda: type(
        "V", (LoginRequiredMixin, PlainView), {"dispatch": idempotent(dispatch)}
    ),
    "outside login_required on the dispatch": lambda: method_decorator([idempotent, login_required], name="dispatch")(
        type("V", (PlainView,), {})
    ),
    "around the dispatch of a view with login_required on its post": lambda: method_decorator(
        idempotent, name="dispatch"
    )(guarded_class(login_required)),
    "around the dispatch of a DRF view": lambda: method_decorator(idempotent, name="dispatch")(
        type("V", (DRFView,), {})
    ),
    "outside login_required in one list": lambda: guarded_class(idempotent, login_required),
    "outside login_required in two decorators": lambda: method_decorator(idempotent, name="post")(
        guarded_class(login_required)
    ),
}


def dispatch(self, request, *args, **kwargs):
    return super(type(self), self).dispatch(request, *args, **kwargs)


async def async_method(self, request):
    return HttpResponse()


@pytest.mark.parametrize("case", WRONG_AT_A_REQUEST)
def test_a_wrong_order_that_no_decorator_sees_lets_no_request_in(case):
    """`method_decorator` hides what is around a method until it is called; the system check E004 tells before."""
    wrong = WRONG_AT_A_REQUEST[case]()

    with pytest.raises(PolicyError, match=r"must (not )?stand|async"):
        post(wrong)


RIGHT = {
    "a function": lambda: idempotent(view),
    "options": lambda: idempotent(required=True)(view),
    "no options": lambda: idempotent()(view),
    "inside login_required": lambda: login_required(idempotent(view)),
    "inside staff_member_required": lambda: staff_member_required(idempotent(view)),
    "around login_not_required": lambda: idempotent(login_not_required(view)),
    "around as_view() of a view with login_not_required": lambda: idempotent(
        method_decorator(login_not_required, name="dispatch")(type("V", (PlainView,), {})).as_view()
    ),
    "around require_POST": lambda: idempotent(require_POST(view)),
    "inside @api_view": lambda: api_view(["POST"])(idempotent(view)),
    "around permission_classes": lambda: api_view(["POST"])(idempotent(permission_classes([IsAuthenticated])(view))),
    "inside @action": lambda: action(detail=True, methods=["post"])(idempotent(lambda self, request, pk=None: None)),
    "around a plain as_view()": lambda: idempotent(PlainView.as_view()),
    "twice": lambda: idempotent(idempotent(view)),
    "on a function inside staticmethod": lambda: staticmethod(idempotent(view)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_order_passes(case):
    """None of these raises."""
    RIGHT[case]()


RIGHT_AT_A_REQUEST = {
    "post of a guarded view": lambda: method_decorator(idempotent, name="post")(type("V", (GuardedView,), {})),
    "post inside login_required": lambda: guarded_class(login_required, idempotent),
    "dispatch of a plain view": lambda: method_decorator(idempotent, name="dispatch")(type("V", (PlainView,), {})),
    "dispatch inside login_required": lambda: method_decorator([login_required, idempotent], name="dispatch")(
        type("V", (PlainView,), {})
    ),
    "a base's dispatch inside LoginRequiredMixin": lambda: type(
        "V",
        (LoginRequiredMixin, method_decorator(idempotent, name="dispatch")(type("Base", (PlainView,), {}))),
        {},
    ),
    "csrf_exempt around the dispatch of a base with the right order": lambda: method_decorator(
        csrf_exempt, name="dispatch"
    )(
        type(
            "V",
            (method_decorator([login_required, idempotent], name="dispatch")(type("Base", (PlainView,), {})),),
            {},
        )
    ),
}


@pytest.mark.parametrize("case", RIGHT_AT_A_REQUEST)
def test_a_right_order_lets_a_request_in(case, admin):
    """The same constructions in their right order answer."""
    assert post(RIGHT_AT_A_REQUEST[case](), admin).status_code == 200


@pytest.fixture
def admin():
    """A user who may do everything and is in no database."""
    from django.contrib.auth.models import User

    return User(pk=1, username="admin", is_superuser=True, is_staff=True)


def test_what_is_protected_keeps_its_name_and_tells_its_options():
    """URL names, docs and checks read them."""
    protected = idempotent(required=True)(view)

    assert protected.__name__ == "view"
    assert protected.__wrapped__ is view
    assert getattr(protected, POLICY).options == {"required": True}


def test_a_view_must_get_a_request():
    """On a function that is no view the error names `@once`."""
    with pytest.raises(PolicyError, match="@once"):
        idempotent(lambda event: event)({"id": 1})


class TestMixin:
    """`IdempotencyMixin` refuses a class that it would leave unprotected."""

    def test_it_comes_first(self):
        """After the view's own bases its `initial` would never be called."""
        with pytest.raises(PolicyError, match=r"class Payments\(IdempotencyMixin, \.\.\.\)"):
            type("Payments", (DRFView, IdempotencyMixin), {})

    def test_it_is_of_drf(self):
        """A plain Django view calls no `initial`."""
        with pytest.raises(PolicyError, match=r'method_decorator\(idempotent, name="post"\)\n    class Payments'):
            type("Payments", (IdempotencyMixin, PlainView), {})

    def test_its_options_are_a_policy(self):
        """A dict would be ignored without a word."""
        with pytest.raises(PolicyError, match=r"Payments\.idempotency must be a Policy"):
            type("Payments", (IdempotencyMixin, DRFView), {"idempotency": {"required": True}})

    @pytest.mark.parametrize("name", ["post", "create"])
    def test_async_handlers_of_drf_are_refused(self, name):
        """DRF's own dispatch does not await them; that of adrf does."""
        with pytest.raises(PolicyError, match="adrf"):
            type("Payments", (IdempotencyMixin, ViewSet), {name: async_method})
        type("Payments", (IdempotencyMixin, adrf.viewsets.ViewSet), {name: async_method})

    def test_async_actions_of_drf_are_refused(self):
        """Actions are handlers too."""
        pay = action(detail=False, methods=["post"])(async_method)
        with pytest.raises(PolicyError, match="adrf"):
            type("Payments", (IdempotencyMixin, ViewSet), {"pay": pay})
        type("Payments", (IdempotencyMixin, adrf.viewsets.ViewSet), {"pay": pay})

    def test_a_guard_on_a_handler_is_refused(self):
        """It would run inside the protection, after a replay."""
        with pytest.raises(PolicyError, match="login_required"):
            type("Payments", (IdempotencyMixin, APIView), {"post": method_decorator(login_required)(DRFView.post)})

    def test_a_mixin_of_ones_own_may_extend_it(self):
        """Projects collect their bases."""
        base = type("ProjectMixin", (IdempotencyMixin,), {"idempotency": Policy(required=True)})

        assert type("Payments", (base, DRFView), {}).idempotency.options["required"]


def test_the_mixin_describes_no_view():
    """drf-spectacular takes the first docstring before DRF's classes for that of the view's operations."""

    class Base(APIView):
        """The project's own words."""

    class Payments(IdempotencyMixin, Base):
        pass

    assert next(base.__doc__ for base in Payments.__mro__ if base.__doc__) == "The project's own words."


class TestOnce:
    """`@once` refuses at decoration what it cannot protect."""

    @pytest.mark.parametrize("option", ["methods", "header", "replayed_header", "docs_url", "should_store", "required"])
    def test_options_of_requests_are_unknown_to_it(self, option):
        """An option without effect is refused, not ignored."""
        with pytest.raises(PolicyError, match=f"@once has no option {option!r}"):
            once("invoice.paid", key=str, **{option: None})
