"""
Views that are wrong, each by one mistake that its author may not see, and views that are right.

`urlpatterns` serves them all. `visits` is a mistake that is made around all of them.
"""

import itertools
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend
from django.db import DatabaseError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import cache_page
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from django_idempotency import Policy, idempotent
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Child, Payment, Unique

served = itertools.count(1)


def paid(request: HttpRequest, reference: str = "paid") -> JsonResponse:
    payment = Payment.objects.create(amount=10, reference=reference)
    return JsonResponse({"id": payment.pk}, status=201)


def mail(subject: str) -> None:
    """Without Django's settings of mailers, which two of its versions spell in two ways."""
    EmailBackend().send_messages([EmailMessage(subject, "", "shop@example.com", ["payer@example.com"])])


# --- right ---

right = idempotent(paid)


@api_view(["POST"])
@idempotent(required=True)
def right_drf(request: Request) -> Response:
    payment = Payment.objects.create(amount=request.data["amount"], reference=request.user.get_username())
    Child.objects.create(payment=payment)
    transaction.on_commit(lambda: mail("Paid"))
    return Response({"id": payment.pk}, status=201, headers={"Location": f"/payments/{payment.pk}/"})


class RightClass(IdempotencyMixin, APIView):
    """Declines, and writes down that it did: an answer that is kept."""

    idempotency = Policy(required=True, replayed_header="X-Again", key_format="uuid")

    def post(self, request: Request) -> Response:
        Payment.objects.create(amount=-1, reference="declined")
        return Response({"declined": True}, status=402)


right_outside = idempotent(store="memory")(paid)


@idempotent(key=lambda request: request.POST.get("event"))
def right_webhook(request: HttpRequest) -> JsonResponse:
    return paid(request)


@idempotent
def right_confirmation(request: HttpRequest) -> JsonResponse:
    """Answers everybody the same, and changes nothing where it was done already."""
    Unique.objects.get_or_create(name="confirmed")
    return JsonResponse({"confirmed": True})


@idempotent
def right_cached(request: HttpRequest) -> JsonResponse:
    """Keeps what it has read in the cache, and counts there what was committed."""
    cache.get_or_set("rate", lambda: "1.1", 600)
    transaction.on_commit(lambda: cache.set("paid", cache.get("paid", 0) + 1))
    return paid(request)


def right_count(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"payments": cache.get_or_set("payments", Payment.objects.count, 60)})


right_page = cache_page(60)(right_count)


@idempotent
def right_forbidden(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=403) if request.user.get_username() == "other" else paid(request)


@idempotent
def right_hidden(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=404) if request.user.get_username() == "other" else paid(request)


@idempotent
def right_but_breaks(request: HttpRequest) -> HttpResponse:
    if request.user.get_username() == "other":
        raise RuntimeError("It was never tried with another user.")
    return paid(request)


@idempotent
def signs_up(request: HttpRequest) -> JsonResponse:
    _, created = Unique.objects.get_or_create(name="taken once")
    return JsonResponse({}, status=201 if created else 400)


class RightAccount(View):
    """DELETE deletes the user who sends it."""

    def delete(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return HttpResponse(status=401)
        User.objects.filter(pk=request.user.pk).delete()
        return HttpResponse(status=204)


class RightDocument(View):
    """GET reads, PUT sets, DELETE deletes."""

    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"documents": Unique.objects.count()})

    def put(self, request: HttpRequest) -> JsonResponse:
        _, created = Unique.objects.update_or_create(name="document")
        return JsonResponse({}, status=201 if created else 200)

    def delete(self, request: HttpRequest) -> HttpResponse:
        deleted, _ = Unique.objects.filter(name="document").delete()
        return HttpResponse(status=204 if deleted else 404)


# --- wrong: an effect that the transaction does not cover ---


@idempotent
def other_database(request: HttpRequest) -> JsonResponse:
    Payment.objects.using("other").create(amount=10, reference="elsewhere")
    return paid(request)


@idempotent
def own_connection(request: HttpRequest) -> JsonResponse:
    """A connection of its own to the same database, which commits by itself."""
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO app_unique (name) VALUES ('beside')")
    finally:
        other.close()
    return paid(request)


@idempotent
def in_a_thread(request: HttpRequest) -> JsonResponse:
    def write() -> None:
        try:
            Payment.objects.using("other").create(amount=10, reference="thread")
        finally:
            connections.close_all()

    threading.Thread(target=write, name="payer").start()
    return paid(request)


@idempotent
def e_mail(request: HttpRequest) -> JsonResponse:
    mail("You have paid")
    return paid(request)


@idempotent
def in_the_cache(request: HttpRequest) -> JsonResponse:
    cache.set("paid", cache.get("paid", 0) + 1)
    return paid(request)


@idempotent
def commits_by_itself(request: HttpRequest) -> JsonResponse:
    """Ends the transaction of its record behind Django's back."""
    response = paid(request)
    connection.connection.commit()
    return response


# --- wrong: something around the protected handler ---


def unprotected(request: HttpRequest) -> JsonResponse:
    return paid(request)


def swallowing(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def swallowed(request: HttpRequest) -> Any:
        try:
            return view(request)
        except Exception:
            return JsonResponse({"paid": True})

    return swallowed


swallowed = swallowing(right)


@idempotent
def swallowed_inside(request: HttpRequest) -> JsonResponse:
    """Goes on after an error that broke its transaction."""
    response = paid(request)
    try:
        Unique.objects.create(name="taken")
        Unique.objects.create(name="taken")
    except DatabaseError:
        pass
    return response


def counting(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def counted(request: HttpRequest) -> Any:
        response = view(request)
        response.content = response.content[:-1] + b', "served": %d}' % next(served)
        response["Content-Length"] = str(len(response.content))
        return response

    return counted


counter_in_the_answer = counting(right)


def numbering(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def numbered(request: HttpRequest) -> Any:
        response = view(request)
        response["X-Receipt"] = str(next(served))
        return response

    return numbered


counter_in_a_header = numbering(right)


@method_decorator(idempotent, name="post")
class BeforeTheHandler(View):
    """Writes in its dispatch, which runs for a replay as well."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        Unique.objects.create(name=f"visit {Unique.objects.count()}")
        return super().dispatch(request, *args, **kwargs)

    def post(self, request: HttpRequest) -> JsonResponse:
        return paid(request)


@method_decorator(idempotent, name="post")
class HookBeforeTheHandler(View):
    """Its hook is registered for a replay as well."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        transaction.on_commit(lambda: Payment.objects.create(amount=1, reference="hook"))
        return super().dispatch(request, *args, **kwargs)

    def post(self, request: HttpRequest) -> JsonResponse:
        return paid(request)


def visits(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """A middleware that writes a row for each request."""

    def visit(request: HttpRequest) -> Any:
        Unique.objects.create(name=f"visit {Unique.objects.count()}")
        return get_response(request)

    return visit


def mailing(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def mailed(request: HttpRequest) -> Any:
        response = view(request)
        if response.status_code == 201:
            mail("You have paid")
        return response

    return mailed


def touching(view: Callable[..., Any]) -> Callable[..., Any]:
    """Notes what its user did last, as the middleware of many projects does."""

    @wraps(view)
    def touched(request: HttpRequest) -> Any:
        User.objects.filter(pk=request.user.pk).update(first_name=f"{next(served)} requests")
        return view(request)

    return touched


touching_the_user = touching(right)
e_mail_afterwards = mailing(right)

# --- wrong: the policy ---


one_scope = idempotent(scope=lambda request: "all")(paid)
no_fingerprint = idempotent(fingerprint=lambda request: b"")(paid)
kept_by_nobody = idempotent(should_store=lambda response: False)(paid)
key_taken_as_it_is = idempotent(key=lambda request: request.headers.get("Idempotency-Key", "none")[:40])(paid)


# --- wrong: verbs that are idempotent by definition ---


class WrongDocument(View):
    """GET counts its readers, PUT appends, DELETE deletes whatever is next, and tells of it by an e-mail."""

    def get(self, request: HttpRequest) -> JsonResponse:
        Unique.objects.create(name=f"reader {Unique.objects.count()}")
        return JsonResponse({})

    def put(self, request: HttpRequest) -> JsonResponse:
        return paid(request, "appended")

    def delete(self, request: HttpRequest) -> HttpResponse:
        first = Unique.objects.order_by("pk").first()
        if first is not None:
            first.delete()
        return HttpResponse(status=204)


class ForgetfulDocument(View):
    """PUT is refused where it was done already; DELETE sends an e-mail each time."""

    def put(self, request: HttpRequest) -> HttpResponse:
        _, created = Unique.objects.get_or_create(name="document")
        return HttpResponse(status=201 if created else 409)

    def delete(self, request: HttpRequest) -> HttpResponse:
        Unique.objects.filter(name="document").delete()
        mail("Deleted")
        return HttpResponse(status=204)


def counted_in_the_cache(request: HttpRequest) -> HttpResponse:
    cache.add("readers", 0)
    return HttpResponse(cache.incr("readers"))


@login_required(login_url="/sign-in/")
def for_users(request: HttpRequest) -> HttpResponse:
    return paid(request)


def sent_away(request: HttpRequest) -> HttpResponse:
    return redirect(settings.LOGIN_URL)


def moved(request: HttpRequest) -> HttpResponse:
    return redirect(request.GET.get("to", "/moved-document/"))


def table_without_a_model(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO kit_log (line) VALUES ('read')")
    return HttpResponse()


WRONG = {
    "other-database": other_database,
    "own-connection": own_connection,
    "in-a-thread": in_a_thread,
    "e-mail": e_mail,
    "in-the-cache": in_the_cache,
    "commits-by-itself": commits_by_itself,
    "unprotected": unprotected,
    "swallowed": swallowed,
    "swallowed-inside": swallowed_inside,
    "counter-in-the-answer": counter_in_the_answer,
    "counter-in-a-header": counter_in_a_header,
    "before-the-handler": BeforeTheHandler.as_view(),
    "hook-before-the-handler": HookBeforeTheHandler.as_view(),
    "touching-the-user": touching_the_user,
    "e-mail-afterwards": e_mail_afterwards,
    "one-scope": one_scope,
    "no-fingerprint": no_fingerprint,
    "kept-by-nobody": kept_by_nobody,
    "key-taken-as-it-is": key_taken_as_it_is,
}
RIGHT = {
    "right": right,
    "right-drf": right_drf,
    "right-class": RightClass.as_view(),
    "right-outside": right_outside,
    "right-webhook": right_webhook,
    "right-confirmation": right_confirmation,
    "right-cached": right_cached,
}
urlpatterns = [
    *(path(f"{name}/", view) for name, view in (RIGHT | WRONG).items()),
    path("right-forbidden/", right_forbidden),
    path("right-hidden/", right_hidden),
    path("right-but-breaks/", right_but_breaks),
    path("signs-up/", signs_up),
    path("right-document/", RightDocument.as_view()),
    path("right-count/", right_count),
    path("right-page/", right_page),
    path("right-account/", RightAccount.as_view()),
    path("wrong-document/", WrongDocument.as_view()),
    path("forgetful-document/", ForgetfulDocument.as_view()),
    path("counted-in-the-cache/", counted_in_the_cache),
    path("for-users/", for_users),
    path("sent-away/", sent_away),
    path("moved/", moved),
    path("table-without-a-model/", table_without_a_model),
]
