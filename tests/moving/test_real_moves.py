"""
Moves from the real packages: a request is made under each, as PyPI has it, and its retry here.

Marked slow, because each package has an environment of its own.
"""

import json
import uuid
from io import StringIO

import pytest
from django.core.management import call_command
from redis import Redis

from django_idempotency import moving
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import VENDOR, drf, is_replay
from tests.app.views import make_payment
from tests.lab.caches import REDIS_URL, need_redis
from tests.moving.houses import OldProject

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def idemkit_by_user(request, key):
    return moving.idemkit(request, key, scope=str(request.user.pk))


OPTIONS = {
    "drf-idempotency": moving.drf_idempotency,
    "drf-idempotencykey": moving.drf_idempotencykey,
    "django-idempotency-key": moving.django_idempotency_key,
    "djangorestframework-idempotency-key": moving.djangorestframework_idempotency_key,
    "idemkit": idemkit_by_user,
}
HOUSES = {
    "drf-idempotency": ("drf-idempotency", False),
    "drf-idempotency, redis": ("drf-idempotency", True),
    "drf-idempotencykey": ("drf-idempotencykey", False),
    "django-idempotency-key": ("django-idempotency-key", True),
    "djangorestframework-idempotency-key": ("djangorestframework-idempotency-key", False),
    "idemkit": ("idemkit", False),
    "idemkit, redis": ("idemkit", True),
}
DEADLY = 666  # an amount that the old project does not survive
KEEPS_NO_CLAIM = HASHES_THE_BODY_INTO_THE_KEY = "django-idempotency-key"
ANSWERS_ANYONE = ("djangorestframework-idempotency-key", "drf-idempotency")  # who sends the same key and request


@pytest.fixture(params=HOUSES)
def old(request):
    package, redis = HOUSES[request.param]
    if package == "idemkit" and not redis and VENDOR != "postgresql":
        pytest.skip("idemkit keeps rows in PostgreSQL alone")
    prefix = ""
    if redis:
        need_redis()
        prefix = f"old-{uuid.uuid4()}:" + ("1:" if package == "django-idempotency-key" else "")
    project = OldProject(package, redis=redis, prefix=prefix)
    yield project
    project.close()
    if redis:
        with Redis.from_url(REDIS_URL) as client:
            for key in client.scan_iter(f"{prefix}*"):
                client.delete(key)


def run(old, *arguments):
    """Import from the *old* project. Returns what was written."""
    redis = ["--redis", old.redis, "--prefix", old.prefix] if old.redis else []
    out = StringIO()
    call_command("idempotency_import", "--from", old.package, "--answer=anyone", *redis, *arguments, stdout=out)
    return out.getvalue()


def request_of(api, amount=10, key=None):
    """A body and headers, with the credential of *api*."""
    key = key or str(uuid.uuid4())
    return json.dumps({"amount": amount}), {
        "Idempotency-Key": key,
        "Authorization": api._credentials["HTTP_AUTHORIZATION"],
    }


def send(client, request):
    body, headers = request
    return client.post("/moved/", body, content_type="application/json", headers=headers)


def test_a_retry_gets_the_answer_of_the_time_before(old, serve, api):
    """The same status and body, and the handler runs neither then nor for the retry of one that was killed."""
    serve(drf(make_payment, moved_from=OPTIONS[old.package]), route="moved/")
    answered, killed = request_of(api), request_of(api, amount=DEADLY)
    (first,) = old.send(answered)
    old.send(killed, dies=True)
    effects = Payment.objects.count()

    would = run(old, "--dry-run")
    assert IdempotencyRecord.objects.count() == 0
    assert run(old) == would.replace("Would import", "Imported")
    assert "Imported 0 answers and 0 unknown outcomes" in run(old)

    retry = send(api, answered)
    assert (retry.status_code, retry.content.decode(), is_replay(retry)) == (first["status"], first["body"], True)
    assert retry["Content-Type"] == first["headers"]["Content-Type"]
    assert retry.headers.get("Location") == first["headers"].get("Location")
    if old.package != KEEPS_NO_CLAIM:
        assert send(api, killed).json()["code"] == "outcome-unknown"
    assert Payment.objects.count() == effects


def test_what_is_no_retry_does_not_get_it(old, serve, api, other_api):
    """Another payload, and another user, as far as the package can tell them apart."""
    serve(drf(make_payment, moved_from=OPTIONS[old.package]), route="moved/")
    request = request_of(api)
    old.send(request)
    run(old)

    mended = request_of(api, amount=11, key=request[1]["Idempotency-Key"])
    assert send(api, mended).status_code == (201 if old.package == HASHES_THE_BODY_INTO_THE_KEY else 422)
    strangers = request_of(other_api, key=request[1]["Idempotency-Key"])
    assert is_replay(send(other_api, strangers)) == (old.package in ANSWERS_ANYONE)
