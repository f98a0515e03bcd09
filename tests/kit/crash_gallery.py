"""Views that a kill or a race betrays, each by one mistake, and views that are right: a URLconf."""

import http.client
import os
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Value
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import send_mail
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.models import F, Max
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from rest_framework.authtoken.models import Token
from rest_framework.decorators import api_view
from rest_framework.response import Response

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Child, Payment, Unique

ACCOUNT = "account"


def pay() -> JsonResponse:
    payment = Payment.objects.create(amount=10, reference="paid")
    return JsonResponse({"id": payment.pk}, status=201)


def pay_on_a_connection_of_ones_own(using: str) -> None:
    try:
        Payment.objects.using(using).create(amount=10, reference="thread")
    finally:
        connections[using].close()


# --- right ---


@idempotent(required=True)
def right(request: HttpRequest) -> JsonResponse:
    return pay()


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


@idempotent(required=True, using="other")
def in_other(request: HttpRequest) -> JsonResponse:
    Payment.objects.using("other").create(amount=10, reference="other")
    return JsonResponse({}, status=201)


@idempotent(required=True)
def differs(request: HttpRequest) -> JsonResponse:
    """Writes what no other run writes: a copy of a number, a salted password, random texts."""
    payment = Payment.objects.create(amount=10, reference=secrets.token_hex(5))
    Payment.objects.create(amount=1, reference=f"of {payment.pk}")
    payer = User.objects.create_user("payer", password="secret")
    return JsonResponse({"token": Token.objects.create(user=payer).key}, status=201)


@idempotent(required=True)
def rotates(request: HttpRequest) -> JsonResponse:
    """Gives a row that was there a random value."""
    Payment.objects.filter(amount=100).update(reference=secrets.token_hex(5))
    return JsonResponse({}, status=201)


@idempotent(required=True)
def has_no_model(request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO kit_job (id, state) VALUES (%s, 1)", [str(uuid.uuid4())])
    return JsonResponse({}, status=201)


@idempotent(required=True)
def only_charges(request: HttpRequest) -> JsonResponse:
    charge()
    return JsonResponse({}, status=201)


@idempotent(required=True)
def idle(request: HttpRequest) -> JsonResponse:
    return JsonResponse({}, status=201)


@contextmanager
def session_lock() -> Iterator[None]:
    """A lock of the connection's session, which is let go at the end of the block: before COMMIT, if there is one."""
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


def next_number() -> JsonResponse:
    """The next of the numbers that are given out. Two requests that do so at once get the same one."""
    number = Payment.objects.aggregate(last=Max("amount"))["last"] or 0
    Payment.objects.create(amount=number + 1, reference="number")
    return JsonResponse({"number": number + 1}, status=201)


@idempotent(required=True)
def locks_until_commit(request: HttpRequest) -> JsonResponse:
    """Holds its lock for as long as its transaction, or where there is none for as long as the connection lives."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(8003)")
            return next_number()
    with transaction.atomic():
        list(Unique.objects.select_for_update().filter(name="lock"))
        return next_number()


# --- wrong ---


@idempotent(required=True)
def locks_for_the_session(request: HttpRequest) -> JsonResponse:
    with session_lock():
        return next_number()


@idempotent(required=True)
def locks_nothing(request: HttpRequest) -> JsonResponse:
    number = Payment.objects.aggregate(last=Max("amount"))["last"] or 0
    time.sleep(0.05)
    Payment.objects.create(amount=number + 1, reference="number")
    return JsonResponse({"number": number + 1}, status=201)


@idempotent(required=True)
def differs_elsewhere(request: HttpRequest) -> JsonResponse:
    """Random or not, a row in another database is one too many."""
    Payment.objects.using("other").create(amount=10, reference=secrets.token_hex(5))
    return pay()


@idempotent(required=True)
def charges_elsewhere(request: HttpRequest) -> JsonResponse:
    Payment.objects.using("other").filter(reference=ACCOUNT).update(amount=F("amount") - 10)
    return pay()


PAID = Value("i")  # shared with processes that are forked


@idempotent(required=True)
def differs_later(request: HttpRequest) -> JsonResponse:
    """Right, but its first two runs agree by chance, and no other does."""
    with PAID.get_lock():
        PAID.value += 1
    Payment.objects.create(amount=10, reference=f"number {max(PAID.value, 2)}")
    return JsonResponse({}, status=201)


@idempotent(required=True)
def pays_once(request: HttpRequest) -> JsonResponse:
    """Knows from elsewhere than the database that it was called."""
    PAID.value += 1
    if PAID.value > 1:
        raise RuntimeError("paid already")
    return pay()


BY_TURNS = Value("i")


@idempotent(required=True)
def by_turns(request: HttpRequest) -> JsonResponse:
    """One run writes a row more than another."""
    BY_TURNS.value += 1
    for _ in range(1 + BY_TURNS.value % 2):
        pay()
    return pay()


@idempotent(required=True)
def other_database(request: HttpRequest) -> JsonResponse:
    Payment.objects.using("other").create(amount=10, reference="elsewhere")
    return pay()


@idempotent(required=True)
def hook(request: HttpRequest) -> JsonResponse:
    transaction.on_commit(lambda: Payment.objects.create(amount=10, reference="hook"))
    return pay()


@idempotent(required=True)
def thread(request: HttpRequest) -> JsonResponse:
    """The thread's connection commits by itself; on SQLite it would wait for the handler's, so it is another file's."""
    using = "other" if connection.vendor == "sqlite" else "default"
    worker = threading.Thread(target=pay_on_a_connection_of_ones_own, args=[using], name="worker")
    worker.start()
    worker.join()
    return pay()


@idempotent(required=True)
def swallow(request: HttpRequest) -> JsonResponse:
    try:
        Unique.objects.create(name="taken")
        Unique.objects.create(name="taken")
    except DatabaseError:
        pass  # this is the mistake
    return JsonResponse({}, status=201)


@idempotent(required=True)
def e_mail(request: HttpRequest) -> JsonResponse:
    send_mail("You paid", "Thank you.", "shop@example.com", ["payer@example.com"])
    return pay()


@idempotent(required=True)
def e_mail_in_hook(request: HttpRequest) -> JsonResponse:
    transaction.on_commit(lambda: send_mail("You paid", "Thanks.", "shop@example.com", ["payer@example.com"]))
    return pay()


def charge() -> None:
    """Ask somebody else's server to do something, which no rollback takes back."""
    gateway = http.client.HTTPConnection("127.0.0.1", settings.GATEWAY_PORT, timeout=10)
    gateway.request("POST", "/charge")
    gateway.getresponse().read()
    gateway.close()


@idempotent(required=True)
def http_call(request: HttpRequest) -> JsonResponse:
    charge()
    return pay()


@idempotent(required=True, store="redis")
def in_redis(request: HttpRequest) -> JsonResponse:
    charge()
    return JsonResponse({"charged": True}, status=201)


@idempotent(required=True)
def file(request: HttpRequest) -> JsonResponse:
    with open(settings.LEDGER, "a") as ledger:
        ledger.write("paid\n")
    return pay()


def unprotected(request: HttpRequest) -> JsonResponse:
    return pay()


def unprotected_and_idle(request: HttpRequest) -> JsonResponse:
    return JsonResponse({}, status=201)


@idempotent(required=True)
def refused(request: HttpRequest) -> JsonResponse:
    return JsonResponse({}, status=400)


def before(request: HttpRequest) -> JsonResponse:
    """Writes before the protected view that it calls."""
    Payment.objects.create(amount=1, reference="around")
    return right(request)


LOOKED, NEEDED = Value("i"), Value("i")  # shared with processes that are forked


def wait_for_two() -> None:
    """From now on `look_first` goes on only when two more requests have looked."""
    NEEDED.value = LOOKED.value + 2


def look_first(request: HttpRequest) -> JsonResponse:
    """Writes unless a record is there already, which is true of all that come before the first commits."""
    is_new = not IdempotencyRecord.objects.filter(key=request.headers["Idempotency-Key"]).exists()
    with LOOKED.get_lock():
        LOOKED.value += 1
    if is_new:
        Payment.objects.create(amount=1, reference="around")
    return when_looked(request)


@idempotent(required=True)
def when_looked(request: HttpRequest) -> JsonResponse:
    deadline = time.monotonic() + 30
    while LOOKED.value < NEEDED.value and time.monotonic() < deadline:
        time.sleep(0.001)
    return pay()


def names_its_process(request: HttpRequest) -> HttpResponse:
    response = right(request)
    response.content += str(os.getpid()).encode()
    return response


urlpatterns = [
    path("right/", right),
    path("transfer/", transfer),
    path("in-other/", in_other),
    path("differs/", differs),
    path("rotates/", rotates),
    path("has-no-model/", has_no_model),
    path("idle/", idle),
    path("only-charges/", only_charges),
    path("differs-elsewhere/", differs_elsewhere),
    path("charges-elsewhere/", charges_elsewhere),
    path("differs-later/", differs_later),
    path("by-turns/", by_turns),
    path("pays-once/", pays_once),
    path("other-database/", other_database),
    path("hook/", hook),
    path("thread/", thread),
    path("swallow/", swallow),
    path("e-mail/", e_mail),
    path("e-mail-in-hook/", e_mail_in_hook),
    path("http-call/", http_call),
    path("in-redis/", in_redis),
    path("file/", file),
    path("unprotected/", unprotected),
    path("unprotected-and-idle/", unprotected_and_idle),
    path("refused/", refused),
    path("look-first/", look_first),
    path("names-its-process/", names_its_process),
    path("before/", before),
    path("locks-until-commit/", locks_until_commit),
    path("locks-for-the-session/", locks_for_the_session),
    path("locks-nothing/", locks_nothing),
]
