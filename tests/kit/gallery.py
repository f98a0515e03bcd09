"""
Views that are wrong, each by one mistake that its author may not see, and views that are right.

`serve` puts a view into `urlpatterns` under its own name; a protected view that returns nothing has paid. The
middleware `visits` is a mistake that is made around all views.
"""

import http.client
import itertools
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from multiprocessing import Value
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.models import F, Max
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import cache_page
from rest_framework.authtoken.models import Token
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from django_idempotency import Policy, idempotent
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Child, Payment, Unique

ACCOUNT = "account"

urlpatterns: list[URLPattern] = []
WRONG: list[str] = []  # the names of those that assert_idempotent has to catch

served = itertools.count(1)
RUNS = Value("i")  # shared with processes that are forked


def serve(name: str, view: Any, *, wrong: bool = False) -> Any:
    """Serve *view* at the URL /name/."""
    urlpatterns.append(path(f"{name}/", view))
    if wrong:
        WRONG.append(name)
    return view


def handler(work: Any = None, *, wrong: bool = False, **options: Any) -> Any:
    """Protect *work* by the policy's *options*, and serve it under its name. If it returns nothing, it has paid."""
    if work is None:
        return partial(handler, wrong=wrong, **options)

    @idempotent(**options)
    @wraps(work)
    def view(request: HttpRequest) -> Any:
        response = work(request)
        return paid(request) if response is None else response

    return serve(work.__name__.replace("_", "-"), view, wrong=wrong)


def around(view: Any) -> Callable[[Callable[..., Any]], Any]:
    """Serve *view* with a mistake around it: a function of the request and the view."""

    def wrap(mistake: Callable[..., Any]) -> Any:
        @wraps(view)
        def wrapped(request: HttpRequest) -> Any:
            return mistake(request, view)

        return serve(mistake.__name__.replace("_", "-"), wrapped, wrong=True)

    return wrap


def paid(request: HttpRequest, reference: str = "paid") -> JsonResponse:
    payment = Payment.objects.create(amount=10, reference=reference)
    return JsonResponse({"id": payment.pk}, status=201)


def created() -> JsonResponse:
    return JsonResponse({}, status=201)


def mail(subject: str) -> None:
    """Without Django's settings of mailers, which two of its versions spell in two ways."""
    EmailBackend().send_messages([EmailMessage(subject, "", "shop@example.com", ["payer@example.com"])])


def charge() -> None:
    """Ask a foreign server to do something, which no rollback takes back."""
    gateway = http.client.HTTPConnection("127.0.0.1", settings.GATEWAY_PORT, timeout=10)
    gateway.request("POST", "/charge")
    gateway.getresponse().read()
    gateway.close()


# --- right ---

right = serve("right", idempotent(paid))
serve("right-outside", idempotent(store="memory")(paid))
serve("right-webhook", idempotent(key=lambda request: request.POST.get("event"))(paid))


@partial(serve, "right-drf")
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


serve("right-class", RightClass.as_view())


@handler
def right_confirmation(request: HttpRequest) -> JsonResponse:
    """Answers everybody the same, and changes nothing if it was done already."""
    Unique.objects.get_or_create(name="confirmed")
    return JsonResponse({"confirmed": True})


@handler
def right_cached(request: HttpRequest) -> None:
    """Keeps what it has read in the cache, and counts there what was committed."""
    cache.get_or_set("rate", lambda: "1.1", 600)
    transaction.on_commit(lambda: cache.set("paid", cache.get("paid", 0) + 1))


@partial(serve, "right-count")
def right_count(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"payments": cache.get_or_set("payments", Payment.objects.count, 60)})


serve("right-page", cache_page(60)(right_count))


@handler
def right_forbidden(request: HttpRequest) -> HttpResponse | None:
    return HttpResponse(status=403) if request.user.get_username() == "other" else None


@handler
def right_hidden(request: HttpRequest) -> HttpResponse | None:
    return HttpResponse(status=404) if request.user.get_username() == "other" else None


@handler
def right_but_breaks(request: HttpRequest) -> None:
    if request.user.get_username() == "other":
        raise RuntimeError("It was never tried with another user.")


@handler
def signs_up(request: HttpRequest) -> JsonResponse:
    _, is_new = Unique.objects.get_or_create(name="taken once")
    return JsonResponse({}, status=201 if is_new else 400)


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
        _, is_new = Unique.objects.update_or_create(name="document")
        return JsonResponse({}, status=201 if is_new else 200)

    def delete(self, request: HttpRequest) -> HttpResponse:
        deleted, _ = Unique.objects.filter(name="document").delete()
        return HttpResponse(status=204 if deleted else 404)


serve("right-account", RightAccount.as_view())
serve("right-document", RightDocument.as_view())


@partial(serve, "transfer")
@api_view(["POST"])
@idempotent(required=True)
def transfer(request: Any) -> Response:
    """Changes a row, deletes one, adds rows that refer to each other, undoes a savepoint."""
    Payment.objects.filter(reference=ACCOUNT).update(amount=F("amount") - 10)
    Unique.objects.filter(name="once").delete()
    payment = Payment.objects.create(amount=10, reference=request.data["to"])
    Child.objects.create(payment=payment)
    try:
        with transaction.atomic():
            Payment.objects.create(amount=-1, reference="undone")
            raise IntegrityError
    except IntegrityError:
        pass
    return Response({"id": payment.pk}, status=201)


@handler(using="other")
def in_other(request: HttpRequest) -> JsonResponse:
    Payment.objects.using("other").create(amount=10, reference="other")
    return created()


@handler
def differs(request: HttpRequest) -> JsonResponse:
    """Writes what no other run writes: a copy of a number, a salted password, random strings."""
    payment = Payment.objects.create(amount=10, reference=secrets.token_hex(5))
    Payment.objects.create(amount=1, reference=f"of {payment.pk}")
    payer = User.objects.create_user("payer", password="secret")
    return JsonResponse({"token": Token.objects.create(user=payer).key}, status=201)


@handler
def rotates(request: HttpRequest) -> JsonResponse:
    """Gives an older row a random value."""
    Payment.objects.filter(amount=100).update(reference=secrets.token_hex(5))
    return created()


@handler
def has_no_model(request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO kit_job (id, state) VALUES (%s, 1)", [str(uuid.uuid4())])
    return created()


@handler
def only_charges(request: HttpRequest) -> JsonResponse:
    charge()
    return created()


@handler
def idle(request: HttpRequest) -> JsonResponse:
    return created()


@handler
def differs_later(request: HttpRequest) -> JsonResponse:
    """Its first two runs agree by chance, and no other does."""
    RUNS.value += 1
    Payment.objects.create(amount=10, reference=f"number {max(RUNS.value, 2)}")
    return created()


@handler(store="redis")
def in_redis(request: HttpRequest) -> JsonResponse:
    charge()
    return JsonResponse({"charged": True}, status=201)


# --- requests at once ---

LOOKED, NEEDED = Value("i"), Value("i")  # shared with processes that are forked


def wait_for(requests: int) -> None:
    """From now on `wait_until_looked` returns only when so many more *requests* have called it."""
    NEEDED.value = LOOKED.value + requests


def wait_until_looked() -> None:
    with LOOKED.get_lock():
        LOOKED.value += 1
    deadline = time.monotonic() + 30
    while LOOKED.value < NEEDED.value and time.monotonic() < deadline:
        time.sleep(0.001)  # another process sets it


@contextmanager
def session_lock() -> Iterator[None]:
    """A lock of the connection's session, released at the end of the block: before COMMIT, if there is one."""
    take, give = {
        "postgresql": ("SELECT pg_advisory_lock(8003)", "SELECT pg_advisory_unlock(8003)"),
        "mysql": ("SELECT GET_LOCK('kit', 30)", "SELECT RELEASE_LOCK('kit')"),
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(take)
        try:
            yield
        finally:
            cursor.execute(give)


def next_number(looked: Callable[[], object] = lambda: None) -> JsonResponse:
    """Give out the next number. Two requests that do so at once get the same one."""
    number = (Payment.objects.aggregate(last=Max("amount"))["last"] or 0) + 1
    looked()
    Payment.objects.create(amount=number, reference="number")
    return JsonResponse({"number": number}, status=201)


@handler
def locks_until_commit(request: HttpRequest) -> JsonResponse:
    """Holds its lock until its transaction ends; without protection, that of its own block."""
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_advisory_xact_lock(8003)")
        else:
            list(Unique.objects.select_for_update().filter(name="lock"))
        return next_number()


@handler
def locks_for_the_session(request: HttpRequest) -> JsonResponse:
    with session_lock():
        return next_number()


@handler
def locks_nothing(request: HttpRequest) -> JsonResponse:
    return next_number(wait_until_looked)


@partial(serve, "look-first")
def look_first(request: HttpRequest) -> JsonResponse:
    """Writes unless a record is there already, which is true of all that come before the first commits."""
    if not IdempotencyRecord.objects.filter(key=request.headers["Idempotency-Key"]).exists():
        Payment.objects.create(amount=1, reference="around")
    wait_until_looked()
    return right(request)


@partial(serve, "names-its-process")
def names_its_process(request: HttpRequest) -> HttpResponse:
    response = right(request)
    response.content += str(os.getpid()).encode()
    return response


# --- wrong: an effect that the transaction does not cover ---


@handler(wrong=True)
def other_database(request: HttpRequest) -> None:
    Payment.objects.using("other").create(amount=10, reference="elsewhere")


@handler(wrong=True)
def own_connection(request: HttpRequest) -> None:
    """A connection of its own to the same database, which commits by itself."""
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO app_unique (name) VALUES ('beside')")
    finally:
        other.close()


@handler(wrong=True)
def in_a_thread(request: HttpRequest) -> None:
    """A thread has a connection of its own. On SQLite it would wait for the handler's, so it uses another file."""

    def write() -> None:
        try:
            Payment.objects.using("other").create(amount=10, reference="thread")
        finally:
            connections.close_all()

    payer = threading.Thread(target=write, name="payer")
    payer.start()
    payer.join()


@handler(wrong=True)
def e_mail(request: HttpRequest) -> None:
    mail("You have paid")


@handler(wrong=True)
def in_the_cache(request: HttpRequest) -> None:
    cache.set("paid", cache.get("paid", 0) + 1)


@handler(wrong=True)
def commits_by_itself(request: HttpRequest) -> JsonResponse:
    """Ends the transaction of its record behind Django's back."""
    response = paid(request)
    connection.connection.commit()
    return response


@handler
def differs_elsewhere(request: HttpRequest) -> None:
    """Random or not, a row in another database is one too many."""
    Payment.objects.using("other").create(amount=10, reference=secrets.token_hex(5))


@handler
def charges_elsewhere(request: HttpRequest) -> None:
    Payment.objects.using("other").filter(reference=ACCOUNT).update(amount=F("amount") - 10)


@handler
def hook(request: HttpRequest) -> None:
    transaction.on_commit(lambda: Payment.objects.create(amount=10, reference="hook"))


@handler
def e_mail_in_hook(request: HttpRequest) -> None:
    transaction.on_commit(lambda: mail("You have paid"))


@handler
def http_call(request: HttpRequest) -> None:
    charge()


@handler
def file(request: HttpRequest) -> None:
    with open(settings.LEDGER, "a") as ledger:
        ledger.write("paid\n")


# --- wrong: runs that are not alike ---


@handler
def pays_once(request: HttpRequest) -> None:
    """Knows from elsewhere than the database that it was called."""
    RUNS.value += 1
    if RUNS.value > 1:
        raise RuntimeError("paid already")


@handler
def by_turns(request: HttpRequest) -> None:
    """One run writes a row more than another."""
    RUNS.value += 1
    for _ in range(1 + RUNS.value % 2):
        paid(request)


@handler
def refused(request: HttpRequest) -> JsonResponse:
    return JsonResponse({}, status=400)


# --- wrong: something around the protected handler ---

serve("unprotected", paid, wrong=True)
serve("unprotected-and-idle", lambda request: created())


@around(right)
def swallowed(request: HttpRequest, view: Any) -> Any:
    try:
        return view(request)
    except Exception:
        return JsonResponse({"paid": True})


@handler(wrong=True)
def swallowed_inside(request: HttpRequest) -> JsonResponse:
    """Goes on after an error that broke its transaction."""
    response = paid(request)
    try:
        Unique.objects.create(name="taken")
        Unique.objects.create(name="taken")
    except DatabaseError:
        pass
    return response


@around(right)
def counter_in_the_answer(request: HttpRequest, view: Any) -> Any:
    response = view(request)
    response.content = response.content[:-1] + b', "served": %d}' % next(served)
    response["Content-Length"] = str(len(response.content))
    return response


@around(right)
def counter_in_a_header(request: HttpRequest, view: Any) -> Any:
    response = view(request)
    response["X-Receipt"] = str(next(served))
    return response


@around(right)
def touching_the_user(request: HttpRequest, view: Any) -> Any:
    """Notes what its user did last, as the middleware of many projects does."""
    User.objects.filter(pk=request.user.pk).update(first_name=f"{next(served)} requests")
    return view(request)


@around(right)
def e_mail_afterwards(request: HttpRequest, view: Any) -> Any:
    response = view(request)
    if response.status_code == 201:
        mail("You have paid")
    return response


class Dispatching(View):
    """Does something in its dispatch, which runs for a replay as well."""

    def before(self) -> None:
        Payment.objects.create(amount=1, reference="around")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        self.before()
        return super().dispatch(request, *args, **kwargs)

    @method_decorator(idempotent)
    def post(self, request: HttpRequest) -> JsonResponse:
        return paid(request)


class HookDispatching(Dispatching):
    def before(self) -> None:
        transaction.on_commit(lambda: Payment.objects.create(amount=1, reference="hook"))


serve("before-the-handler", Dispatching.as_view(), wrong=True)
serve("hook-before-the-handler", HookDispatching.as_view(), wrong=True)


def visits(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """A middleware that writes a row for each request."""

    def visit(request: HttpRequest) -> Any:
        Unique.objects.create(name=f"visit {Unique.objects.count()}")
        return get_response(request)

    return visit


# --- wrong: the policy ---

serve("one-scope", idempotent(scope=lambda request: "all")(paid), wrong=True)
serve("no-fingerprint", idempotent(fingerprint=lambda request: b"")(paid), wrong=True)
serve("kept-by-nobody", idempotent(should_store=lambda response: False)(paid), wrong=True)
serve(
    "key-taken-as-it-is",
    idempotent(key=lambda request: request.headers.get("Idempotency-Key", "none")[:40])(paid),
    wrong=True,
)


# --- wrong: verbs that are idempotent by definition ---


class WrongDocument(View):
    """GET counts its readers, PUT appends, DELETE deletes whatever is next."""

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
    """PUT is refused if it was done already; DELETE sends an e-mail each time."""

    def put(self, request: HttpRequest) -> HttpResponse:
        _, is_new = Unique.objects.get_or_create(name="document")
        return HttpResponse(status=201 if is_new else 409)

    def delete(self, request: HttpRequest) -> HttpResponse:
        Unique.objects.filter(name="document").delete()
        mail("Deleted")
        return HttpResponse(status=204)


serve("wrong-document", WrongDocument.as_view())
serve("forgetful-document", ForgetfulDocument.as_view())
serve("for-users", login_required(login_url="/sign-in/")(paid))
serve("sent-away", lambda request: redirect(settings.LOGIN_URL))
serve("moved", lambda request: redirect(request.GET.get("to", "/moved-document/")))


@partial(serve, "counted-in-the-cache")
def counted_in_the_cache(request: HttpRequest) -> HttpResponse:
    cache.add("readers", 0)
    return HttpResponse(cache.incr("readers"))


@partial(serve, "table-without-a-model")
def table_without_a_model(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO kit_log (line) VALUES ('read')")
    return HttpResponse()
