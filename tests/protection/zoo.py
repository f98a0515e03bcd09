"""
Views of every kind and stacking that say nothing of idempotency, each with what the middleware is to do with it.

Each pays once per request: what a duplicate does shows in the number of payments.
"""

from collections.abc import Callable
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import partial, update_wrapper, wraps
from typing import Any

import adrf.views
import adrf.viewsets
from adrf.decorators import api_view as async_api_view
from asgiref.sync import sync_to_async
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import login_required, permission_required, user_passes_test
from django.contrib.auth.mixins import (
    LoginRequiredMixin,
    PermissionRequiredMixin,
    UserPassesTestMixin,
)
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpResponse, HttpResponseForbidden
from django.template import engines
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import cache_page, never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect, ensure_csrf_cookie
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import condition, require_http_methods, require_POST
from django.views.decorators.vary import vary_on_cookie, vary_on_headers
from django.views.generic import CreateView, FormView, UpdateView
from rest_framework import generics, mixins, viewsets
from rest_framework.decorators import action, api_view, permission_classes, throttle_classes
from rest_framework.permissions import (
    AllowAny,
    BasePermission,
    DjangoModelPermissions,
    IsAdminUser,
    IsAuthenticated,
)
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from django_idempotency import Policy, idempotency_exempt, idempotent
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.views import PaymentSerializer, answer, make_payment

PERMISSION = "app.add_payment"


# --- the handlers ---


def pay() -> Callable[..., Any]:
    """A new function view."""

    def view(request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")

    return view


class Plain(View):
    def get(self, request: Any, **kwargs: Any) -> Any:
        return HttpResponse("a form")

    def post(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")


class Rest(APIView):
    permission_classes = [IsAuthenticated]

    def post(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")


def derived(base: type, *mixins: type, **attributes: Any) -> Any:
    return type("Derived", (*mixins, base), {"__module__": __name__, **attributes})


# --- guards of the project's own ---


def vip(user: Any) -> bool:
    return getattr(user, "first_name", "") == "vip"


def vip_only(view: Any) -> Any:
    @wraps(view)
    def inner(request: Any, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs) if vip(request.user) else HttpResponseForbidden()

    return inner


def async_vip_only(view: Any) -> Any:
    @wraps(view)
    async def inner(request: Any, *args: Any, **kwargs: Any) -> Any:
        user = await request.auser()
        return await view(request, *args, **kwargs) if vip(user) else HttpResponseForbidden()

    return inner


def nameless_guard(view: Any) -> Any:
    def inner(request: Any, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs) if vip(request.user) else HttpResponse(status=403)

    return inner


def hidden_guard(view: Any) -> Any:
    """As the admin's `admin_view` is made: the outermost layer names the view, not the layers between."""
    return update_wrapper(never_cache(nameless_guard(view)), view)


def guard_by_default(view: Any) -> Any:
    def inner(request: Any, view: Any = view) -> Any:
        return view(request) if vip(request.user) else HttpResponse(status=403)

    return inner


class GuardObject:
    def __init__(self, view: Any) -> None:
        self.view = view

    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return self.view(request, *args, **kwargs) if vip(request.user) else HttpResponse(status=403)


class WrappingGuardObject(GuardObject):
    def __init__(self, view: Any) -> None:
        super().__init__(view)
        self.__wrapped__ = view
        self.__name__ = view.__name__


class during_hours(ContextDecorator):  # used as a decorator
    """Django's and the standard library's way to make a decorator of a context manager: what it does is known."""

    def __enter__(self) -> None:
        if not OPEN:
            raise PermissionDenied

    def __exit__(self, *args: object) -> None: ...


OPEN = [True]


class VipMixin:
    """Decides in a dispatch of the project's own, before it calls the next."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not vip(request.user):
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)


class LateVipMixin:
    """Decides after the handler."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().dispatch(request, *args, **kwargs)
        if not vip(request.user):
            raise PermissionDenied
        return response


class OwnDispatch(View):
    """Finds its handlers in its own way."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not vip(request.user):
            return HttpResponseForbidden()
        return self.handle(request)

    def handle(self, request: Any) -> Any:
        return make_payment(request, "zoo")

    post = handle


class InitialVip(Rest):
    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not vip(request.user):
            self.permission_denied(request)


class IsVip(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return vip(request.user)


class IsVipsObject(BasePermission):
    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        return vip(request.user)


def in_handler(request: Any) -> Any:
    if not request.user.has_perm(PERMISSION):
        raise PermissionDenied
    return make_payment(request, "zoo")


def by_status(request: Any) -> Any:
    return make_payment(request, "zoo") if vip(request.user) else HttpResponse(status=403)


def by_helper(request: Any) -> Any:
    require_vip(request)
    return make_payment(request, "zoo")


def require_vip(request: Any) -> None:
    if not vip(request.user):
        raise PermissionDenied


class InForm(Plain):
    def post(self, request: Any, **kwargs: Any) -> Any:
        return self.valid(request)

    def valid(self, request: Any) -> Any:
        if not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        return make_payment(request, "zoo")


# --- larger views ---


class PaymentSet(viewsets.ModelViewSet):
    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer
    permission_classes = [IsAuthenticated]

    @action(detail=False, methods=["post"])
    def transfer(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")

    @action(detail=False, methods=["post"], permission_classes=[IsAdminUser])
    def approve(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")

    @action(detail=False, methods=["get", "post"])
    def note(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")

    @action(detail=False, methods=["post"])
    @idempotent(required=True)
    def decorated(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")

    @action(detail=False, methods=["post"])
    @idempotency_exempt
    def exempt(self, request: Any, **kwargs: Any) -> Any:
        return make_payment(request, "zoo")


class ObjectSet(PaymentSet):
    permission_classes = [IsAuthenticated, IsVipsObject]

    @action(detail=False, methods=["post"])
    def settle(self, request: Any, **kwargs: Any) -> Any:
        payment = Payment.objects.first() or Payment(amount=1)
        self.check_object_permissions(request, payment)
        return make_payment(request, "zoo")


class ObjectSetWithReplayGuard(ObjectSet):
    @staticmethod
    def guard(request: Any, record: Any) -> None:
        if not vip(request.user):
            raise PermissionDenied

    idempotency = Policy(replay_guard=guard)


class CreateOnly(mixins.CreateModelMixin, viewsets.GenericViewSet):
    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer
    permission_classes = [DjangoModelPermissions]


class Rate(UserRateThrottle):
    rate = "2/hour"


class SlowRest(Rest):
    throttle_classes = [Rate]


class FormPay(FormView):
    """A form by Django's own generic view: its handler is Django's."""

    from django.forms import Form as form_class

    success_url = "/done/"

    def form_valid(self, form: Any) -> Any:
        Payment.objects.create(amount=1, reference="zoo")
        return super().form_valid(form)


class CreatePay(CreateView):
    model = Payment
    fields = ()
    success_url = "/done/"

    def form_valid(self, form: Any) -> Any:
        form.instance.amount = 1
        return super().form_valid(form)


class UpdatePay(UpdateView):
    model = Payment
    fields = ()
    success_url = "/done/"

    def get_object(self, queryset: Any = None) -> Any:
        return Payment.objects.create(amount=1, reference="zoo")


def template(request: Any) -> Any:
    Payment.objects.create(amount=1, reference="zoo")
    return TemplateResponse(request, engines["django"].from_string("{{ number }} paid"), {"number": 1}, status=201)


async def asynchronous(request: Any) -> Any:
    payment = await Payment.objects.acreate(amount=1, reference="zoo")
    return answer(request, {"id": payment.pk})


def apay() -> Callable[..., Any]:
    """A new async function view."""

    async def view(request: Any, **kwargs: Any) -> Any:
        return await asynchronous(request)

    return view


class AsyncView(View):
    async def post(self, request: Any) -> Any:
        return await asynchronous(request)


class AsyncRest(adrf.views.APIView):
    permission_classes = [IsAuthenticated]

    async def post(self, request: Any, **kwargs: Any) -> Any:
        return await asynchronous(request)


class AsyncPayments(adrf.viewsets.ModelViewSet):
    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer

    async def perform_acreate(self, serializer: Any) -> None:
        await sync_to_async(serializer.save)()

    @action(detail=False, methods=["post"])
    async def pay(self, request: Any) -> Any:
        return await asynchronous(request)


class AsyncPermission(BasePermission):
    async def has_permission(self, request: Any, view: Any) -> bool:
        return vip(request.user)


class Holder:
    def method(self, request: Any) -> Any:
        return make_payment(request, "zoo")


class Callable_:
    def __call__(self, request: Any) -> Any:
        return make_payment(request, "zoo")


def dispatching(request: Any, view: Any) -> Any:
    return view(request)


class Delegating(View):
    view: Any = None

    def post(self, request: Any) -> Any:
        return self.view(request)


class AsViewOfItsOwn(Plain):
    @classmethod
    def as_view(cls, **kwargs: Any) -> Any:
        return login_required(super().as_view(**kwargs))


class AsViewBehindGuard(Plain):
    @classmethod
    def as_view(cls, **kwargs: Any) -> Any:
        return vip_only(super().as_view(**kwargs))


def of_api(func: Any, *decorators: Any) -> Any:
    for decorator in decorators:
        func = decorator(func)
    return api_view(["POST"])(func)


# --- the animals ---

PROTECTED = "protected behind its guard"
LEFT_OUT = "left out, and named"
MARKED = "left out on purpose"
ALREADY = "protected already"


@dataclass(frozen=True, slots=True, kw_only=True)
class Animal:
    name: str
    view: Any
    fate: str
    guard: str | None  # what the user needs: "login", "permission", "staff", "vip", or None
    is_drf: bool
    why: str = ""  # in the reason for which it is left out
    success: int = 201


ANIMALS: list[Animal] = []


def keep(name: str, view: Any, fate: str, guard: str | None = None, *, why: str = "", success: int = 201) -> None:
    is_drf = hasattr(view, "cls")
    ANIMALS.append(Animal(name=name, view=view, fate=fate, guard=guard, is_drf=is_drf, why=why, success=success))


may_pay = permission_required(PERMISSION, raise_exception=True)
is_vip = user_passes_test(vip)

# Plain functions.
keep("function", pay(), PROTECTED)
keep("function behind login_required", login_required(pay()), PROTECTED, "login")
keep("function behind permission_required", may_pay(pay()), PROTECTED, "permission")
keep("function behind permission_required that redirects", permission_required(PERMISSION)(pay()), PROTECTED,
     "permission")  # fmt: skip
keep("function behind user_passes_test", is_vip(pay()), PROTECTED, "vip")
keep("function behind staff_member_required", staff_member_required(pay()), PROTECTED, "staff")
keep("function behind two guards", login_required(may_pay(pay())), PROTECTED, "permission")
keep("function behind three guards", is_vip(login_required(may_pay(pay()))), PROTECTED, "vip")
keep("function, csrf_exempt", csrf_exempt(pay()), PROTECTED)
keep("function, csrf_exempt inside a guard", login_required(csrf_exempt(pay())), PROTECTED, "login")
keep("function, csrf_exempt around a guard", csrf_exempt(login_required(pay())), PROTECTED, "login")
keep("function, csrf_protect inside a guard", login_required(csrf_protect(csrf_exempt(pay()))), PROTECTED, "login")
keep("function, require_POST", require_POST(pay()), PROTECTED)
keep("function, require_POST around a guard", require_POST(is_vip(pay())), PROTECTED, "vip")
keep("function, require_http_methods inside", is_vip(require_http_methods(["POST"])(pay())), PROTECTED, "vip")
keep("function, never_cache and vary", never_cache(vary_on_headers("Cookie")(is_vip(pay()))), PROTECTED, "vip")
keep("function, vary_on_cookie inside", is_vip(vary_on_cookie(pay())), PROTECTED, "vip")
keep("function, gzip_page", gzip_page(login_required(pay())), PROTECTED, "login")
keep("function, cache_page", login_required(cache_page(60)(pay())), PROTECTED, "login")
keep("function, ensure_csrf_cookie", ensure_csrf_cookie(login_required(pay())), PROTECTED, "login")
keep("function, condition", login_required(condition(etag_func=lambda request: None)(pay())), PROTECTED, "login")
keep("function, sensitive_post_parameters", sensitive_post_parameters()(login_required(pay())), PROTECTED, "login")
keep("function in atomic", transaction.atomic(pay()), PROTECTED)
keep("function in atomic behind a guard", is_vip(transaction.atomic(pay())), PROTECTED, "vip")
keep("function, atomic around a guard", transaction.atomic(is_vip(pay())), PROTECTED, "vip")
keep("function in a context manager", during_hours()(is_vip(pay())), PROTECTED, "vip")
keep("function, non_atomic_requests", transaction.non_atomic_requests(is_vip(pay())), PROTECTED, "vip")
keep("partial", partial(pay(), extra=1), PROTECTED)
keep("partial of a guarded function", partial(is_vip(pay()), extra=1), PROTECTED, "vip")
keep("guard around a partial", login_required(partial(pay(), extra=1)), PROTECTED, "login")
keep("partial with a view", partial(dispatching, view=nameless_guard(pay())), LEFT_OUT, "vip", why="partial")
keep("template response", template, PROTECTED)
keep("async function", apay(), PROTECTED)
keep("async function behind a guard", login_required(apay()), PROTECTED, "login")
keep("async function behind three guards", is_vip(login_required(may_pay(apay()))), PROTECTED, "vip")
keep("async function, csrf_exempt inside a guard", login_required(csrf_exempt(apay())), PROTECTED, "login")
keep("async function, require_POST around a guard", require_POST(is_vip(apay())), PROTECTED, "vip")
keep("async function, never_cache and vary", never_cache(vary_on_headers("Cookie")(is_vip(apay()))), PROTECTED, "vip")
keep("async function, non_atomic_requests", transaction.non_atomic_requests(is_vip(apay())), PROTECTED, "vip")
keep("async function, decorated", login_required(idempotent(apay())), ALREADY, "login")
keep("async function, exempt", idempotency_exempt(apay()), MARKED)
keep("async function in a guard of the project", async_vip_only(apay()), LEFT_OUT, "vip", why="vip_only is not known")
keep("guard of the project", vip_only(pay()), LEFT_OUT, "vip", why="vip_only is not known")
keep("guard of the project inside Django's", login_required(vip_only(pay())), LEFT_OUT, "vip", why="vip_only")
keep("guard of the project around Django's", vip_only(login_required(pay())), LEFT_OUT, "vip", why="vip_only")
keep("guard without wraps", nameless_guard(pay()), LEFT_OUT, "vip", why="made by another function")
keep("guard without wraps in Django's", login_required(nameless_guard(pay())), LEFT_OUT, "vip", why="made by another")
keep("guard with the view as a default", guard_by_default(pay()), LEFT_OUT, "vip", why="made by another function")
keep("guard that hides behind a known decorator", hidden_guard(pay()), LEFT_OUT, "vip", why="does not show")
keep("guard that is an object", GuardObject(pay()), LEFT_OUT, "vip", why="no function")
keep("guard that is an object, behind Django's", login_required(WrappingGuardObject(pay())), LEFT_OUT, "vip",
     why="no function")  # fmt: skip
keep("guard in the handler", in_handler, LEFT_OUT, "permission", why="PermissionDenied in in_handler")
keep("guard in the handler behind Django's", login_required(in_handler), LEFT_OUT, "permission", why="PermissionDenied")
keep("guard in the handler by status", by_status, LEFT_OUT, "vip", why="403")
keep("guard in a helper", by_helper, LEFT_OUT, "vip", why="PermissionDenied in require_vip")
keep("callable object", Callable_(), LEFT_OUT, why="no function")
keep("bound method", Holder().method, LEFT_OUT, why="no function")
keep("decorated function", idempotent(pay()), ALREADY)
keep("decorated function behind a guard", is_vip(idempotent(pay())), ALREADY, "vip")
keep("decorated function behind the project's guard", vip_only(idempotent(pay())), ALREADY, "vip")
keep("exempt function", idempotency_exempt(pay()), MARKED)
keep("exempt function inside a guard", login_required(idempotency_exempt(pay())), MARKED, "login")
keep("exempt function around a guard", idempotency_exempt(login_required(pay())), MARKED, "login")

# Plain classes.
keep("class", Plain.as_view(), PROTECTED)
keep("class with LoginRequiredMixin", derived(Plain, LoginRequiredMixin).as_view(), PROTECTED, "login")
keep("class with PermissionRequiredMixin",
     derived(Plain, PermissionRequiredMixin, permission_required=PERMISSION, raise_exception=True).as_view(),
     PROTECTED, "permission")  # fmt: skip
keep("class with UserPassesTestMixin",
     derived(Plain, UserPassesTestMixin, test_func=lambda self: vip(self.request.user)).as_view(),
     PROTECTED, "vip")  # fmt: skip
keep("class with two mixins",
     derived(Plain, LoginRequiredMixin, UserPassesTestMixin, test_func=lambda self: vip(self.request.user)).as_view(),
     PROTECTED, "vip")  # fmt: skip
keep("class with a guarded dispatch", method_decorator(is_vip, name="dispatch")(derived(Plain)).as_view(), PROTECTED,
     "vip")  # fmt: skip
keep("class with a guarded post", method_decorator(is_vip, name="post")(derived(Plain)).as_view(), PROTECTED, "vip")
keep("class with a decorated method",
     derived(Plain, post=method_decorator(is_vip)(Plain.post)).as_view(), PROTECTED, "vip")  # fmt: skip
keep("class with several decorators",
     method_decorator([never_cache, login_required, is_vip], name="post")(derived(Plain)).as_view(),
     PROTECTED, "vip")  # fmt: skip
keep("class with decorators at both",
     method_decorator(login_required, name="dispatch")(
         method_decorator(is_vip, name="post")(derived(Plain))
     ).as_view(), PROTECTED, "vip")  # fmt: skip
keep("class with atomic on post",
     method_decorator(transaction.atomic, name="post")(derived(Plain, LoginRequiredMixin)).as_view(),
     PROTECTED, "login")  # fmt: skip
keep("guard around as_view", login_required(Plain.as_view()), PROTECTED, "login")
keep("two guards around as_view", login_required(is_vip(Plain.as_view())), PROTECTED, "vip")
keep("csrf_exempt around as_view", csrf_exempt(is_vip(Plain.as_view())), PROTECTED, "vip")
keep("partial of as_view", partial(is_vip(Plain.as_view()), extra=1), PROTECTED, "vip")
keep("as_view of its own", AsViewOfItsOwn.as_view(), PROTECTED, "login")
keep("class with a dispatch of its own", derived(Plain, VipMixin).as_view(), PROTECTED, "vip")
keep("form view", derived(FormPay, LoginRequiredMixin).as_view(), PROTECTED, "login", success=302)
keep("create view", method_decorator(is_vip, name="dispatch")(derived(CreatePay)).as_view(), PROTECTED, "vip",
     success=302)  # fmt: skip
keep("update view", derived(UpdatePay, LoginRequiredMixin).as_view(), PROTECTED, "login", success=302)
keep("project's guard around as_view", vip_only(Plain.as_view()), LEFT_OUT, "vip", why="vip_only is not known")
keep("project's guard on post", method_decorator(vip_only, name="post")(derived(Plain)).as_view(), LEFT_OUT, "vip",
     why="vip_only is not known")  # fmt: skip
keep("project's guard on dispatch", method_decorator(vip_only, name="dispatch")(derived(Plain)).as_view(), PROTECTED,
     "vip")  # fmt: skip
keep("project's guard in as_view", AsViewBehindGuard.as_view(), LEFT_OUT, "vip", why="vip_only is not known")
keep("class that finds its own handlers", OwnDispatch.as_view(), LEFT_OUT, "vip", why="does not call that of its base")
keep("guard in a method of the class", InForm.as_view(), LEFT_OUT, "permission", why="PermissionDenied in InForm.valid")
keep("class that is given a view", Delegating.as_view(view=nameless_guard(pay())), LEFT_OUT, "vip",
     why="as_view() is given something to call")  # fmt: skip
keep("async class", AsyncView.as_view(), PROTECTED)
keep("async class behind a guard", login_required(AsyncView.as_view()), PROTECTED, "login")
keep("async class with a guarded post",
     method_decorator(is_vip, name="post")(derived(AsyncView)).as_view(), PROTECTED, "vip")  # fmt: skip
keep("async class, decorated", method_decorator(idempotent, name="post")(derived(AsyncView)).as_view(), ALREADY)
keep("async class, decorated inside a guard",
     method_decorator([is_vip, idempotent], name="post")(derived(AsyncView)).as_view(), ALREADY, "vip")  # fmt: skip
keep("async class, decorated method", derived(AsyncView, post=idempotent(AsyncView.post)).as_view(), ALREADY)
keep("decorated class", method_decorator(idempotent, name="post")(derived(Plain)).as_view(), ALREADY)
keep("decorated method inside a guard",
     method_decorator([is_vip, idempotent], name="post")(derived(Plain)).as_view(), ALREADY, "vip")  # fmt: skip
keep("decorated as_view", login_required(idempotent(Plain.as_view())), ALREADY, "login")
keep("exempt class", idempotency_exempt(derived(Plain)).as_view(), MARKED)
keep("exempt method", derived(Plain, post=idempotency_exempt(pay_method := lambda self, request: make_payment(request))
     ).as_view(), MARKED)  # fmt: skip

# DRF.
keep("api_view", of_api(pay()), PROTECTED)
keep("api_view with a permission", of_api(pay(), permission_classes([IsAuthenticated])), PROTECTED, "login")
keep("api_view with the project's permission", of_api(pay(), permission_classes([IsVip])), PROTECTED, "vip")
keep("api_view with composed permissions", of_api(pay(), permission_classes([IsVip & IsAuthenticated])), PROTECTED,
     "vip")  # fmt: skip
keep("api_view with a throttle", of_api(pay(), throttle_classes([Rate]), permission_classes([IsAuthenticated])),
     PROTECTED, "login")  # fmt: skip
keep("api_view around atomic", of_api(transaction.atomic(pay()), permission_classes([IsVip])), PROTECTED, "vip")
keep("api_view around the project's guard", of_api(vip_only(pay())), LEFT_OUT, "vip", why="vip_only is not known")
keep("api_view in the project's guard", vip_only(of_api(pay())), LEFT_OUT, why="vip_only is not known", success=403)
keep("api_view in csrf_exempt", csrf_exempt(of_api(pay(), permission_classes([IsVip]))), PROTECTED, "vip")
keep("api_view that decides itself", of_api(in_handler), LEFT_OUT, "permission", why="PermissionDenied in in_handler")
keep("api_view, decorated", of_api(idempotent(pay()), permission_classes([IsVip])), ALREADY, "vip")
keep("api_view, exempt inside", of_api(idempotency_exempt(pay())), MARKED)
keep("api_view, exempt outside", idempotency_exempt(of_api(pay())), MARKED)
keep("APIView", Rest.as_view(), PROTECTED, "login")
keep("APIView of everybody", Rest.as_view(permission_classes=[AllowAny]), PROTECTED)
keep("APIView with the project's permission", Rest.as_view(permission_classes=[IsVip]), PROTECTED, "vip")
keep("APIView for staff", Rest.as_view(permission_classes=[IsAdminUser]), PROTECTED, "staff")
keep("APIView with an initial of its own", InitialVip.as_view(), PROTECTED, "vip")
keep("APIView with a throttle", SlowRest.as_view(), PROTECTED, "login")
keep("APIView with the project's guard on post", method_decorator(vip_only, name="post")(derived(Rest)).as_view(),
     LEFT_OUT, "vip", why="vip_only is not known")  # fmt: skip
keep("APIView with the mixin", derived(Rest, IdempotencyMixin).as_view(), ALREADY, "login")
keep("APIView, decorated", derived(Rest, post=idempotent(Rest.post)).as_view(), ALREADY, "login")
keep("exempt APIView", idempotency_exempt(derived(Rest)).as_view(), MARKED, "login")
keep("generic view", generics.ListCreateAPIView.as_view(
     queryset=Payment.objects.all(), serializer_class=PaymentSerializer, permission_classes=[IsVip]),
     PROTECTED, "vip")  # fmt: skip
keep("viewset, create", PaymentSet.as_view({"get": "list", "post": "create"}), PROTECTED, "login")
keep("viewset, action", PaymentSet.as_view({"post": "transfer"}), PROTECTED, "login")
keep("viewset, action of two methods", PaymentSet.as_view({"get": "note", "post": "note"}), PROTECTED, "login")
keep("viewset, action with its permission", PaymentSet.as_view({"post": "approve"}, permission_classes=[IsAdminUser]),
     PROTECTED, "staff")  # fmt: skip
keep("viewset, decorated action", PaymentSet.as_view({"post": "decorated"}), ALREADY, "login")
keep("viewset, exempt action", PaymentSet.as_view({"post": "exempt"}), MARKED, "login")
keep("viewset, create only, by model permissions", CreateOnly.as_view({"post": "create"}), PROTECTED, "permission")
keep("viewset with object permissions, create", ObjectSet.as_view({"post": "create"}), PROTECTED, "login")
keep("viewset with object permissions, object", ObjectSet.as_view({"post": "settle"}), LEFT_OUT, "vip",
     why="object permissions")  # fmt: skip
keep("viewset with object permissions and a replay guard", ObjectSetWithReplayGuard.as_view({"post": "settle"}),
     PROTECTED, "vip")  # fmt: skip
keep("async APIView", AsyncRest.as_view(), PROTECTED, "login")
keep("async APIView with a permission", AsyncRest.as_view(permission_classes=[IsVip]), PROTECTED, "vip")
keep(
    "async APIView with an async permission", AsyncRest.as_view(permission_classes=[AsyncPermission]), PROTECTED, "vip"
)
keep("async APIView with the mixin", derived(AsyncRest, IdempotencyMixin).as_view(), ALREADY, "login")
keep("async APIView, decorated", derived(AsyncRest, post=idempotent(AsyncRest.post)).as_view(), ALREADY, "login")
keep("exempt async APIView", idempotency_exempt(derived(AsyncRest)).as_view(), MARKED, "login")
keep("async api_view", async_api_view(["POST"])(permission_classes([IsVip])(apay())), PROTECTED, "vip")
keep("async api_view, decorated", async_api_view(["POST"])(permission_classes([IsVip])(idempotent(apay()))), ALREADY,
     "vip")  # fmt: skip
keep("async viewset, create", AsyncPayments.as_view({"post": "acreate"}, permission_classes=[IsVip]), PROTECTED, "vip")
keep("async viewset, action", AsyncPayments.as_view({"post": "pay"}, permission_classes=[IsVip]), PROTECTED, "vip")
keep("async viewset with the mixin",
     derived(AsyncPayments, IdempotencyMixin).as_view({"post": "acreate"}, permission_classes=[IsVip]), ALREADY,
     "vip")  # fmt: skip
