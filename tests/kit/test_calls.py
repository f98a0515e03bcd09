"""A call sends the same request with any key, as any user, and says what came back."""

import json
import time

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from django_idempotency.core.keys import check_age
from django_idempotency.exceptions import KeyReused, RequestInProgress
from django_idempotency.testing import Call, new_key, send, send_until_final


def echo(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "method": request.method,
            "path": request.get_full_path(),
            "type": request.content_type,
            "body": request.body.decode() if "multipart" not in request.content_type else request.POST,
            "files": {name: file.read().decode() for name, file in request.FILES.items()},
            "key": request.headers.get("Idempotency-Key"),
            "tenant": request.headers.get("X-Tenant"),
            "user": str(request.user),
        }
    )


@api_view(["GET"])
@permission_classes([IsAuthenticated])
def who(request):
    request.user.first_name += "x"  # not saved: the next request must not see it
    return Response({"user": request.user.username, "name": request.user.first_name})


def failing(request):
    raise ValueError("no")


urlpatterns = [
    path("echo/", echo),
    path("who/", who),
    path("failing/", failing),
    path("file/", lambda request: FileResponse([b"con", b"tent"], status=201)),
    path("problem/", lambda request: JsonResponse({"code": "key-reused"}, status=422)),
    path("list/", lambda request: JsonResponse(["no"], status=400, safe=False)),
    path("text/", lambda request: HttpResponse("x" * 300, status=400)),
]
pytestmark = [pytest.mark.urls("tests.kit.test_calls"), pytest.mark.django_db]


def sent(call, key="key-1"):
    reply = send(call, key)
    assert reply.status == 200, reply
    return json.loads(reply.body)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call.post("/echo/", {"a": 1}), {"method": "POST", "body": '{"a": 1}', "type": "application/json"}),
        (Call.patch("/echo/", [1]), {"method": "PATCH", "body": "[1]"}),
        (Call.put("/echo/", "text", content_type="text/plain"), {"body": "text", "type": "text/plain"}),
        (Call.post("/echo/", b"bytes"), {"body": "bytes"}),
        (Call.post("/echo/"), {"body": "", "key": "key-1"}),
        (
            Call.post("/echo/", {"a": [1, 2]}, content_type="application/x-www-form-urlencoded"),
            {"body": "a=1&a=2", "type": "application/x-www-form-urlencoded"},
        ),
        (Call.delete("/echo/?hard=1"), {"method": "DELETE", "path": "/echo/?hard=1"}),
        (Call.get("/echo/?page=2", headers={"X-Tenant": "a"}), {"path": "/echo/?page=2", "tenant": "a"}),
        (Call.options("/echo/"), {"method": "OPTIONS"}),
        (Call.post("/echo/", lambda key: {"id": key}, header=None), {"body": '{"id": "key-1"}', "key": None}),
    ],
)
def test_payloads_and_keys_are_sent(call, expected):
    """As the content type says, and nothing else."""
    assert sent(call).items() >= expected.items()


def test_no_key_is_no_header():
    """Where the key is None."""
    assert sent(Call.post("/echo/"), None)["key"] is None
    assert send(Call.head("/echo/"), None).method == "HEAD"


def test_files_are_sent_again():
    """Each time from their beginning."""
    call = Call.post(
        "/echo/", {"a": "1", "file": SimpleUploadedFile("a.txt", b"content")}, content_type="multipart/form-data"
    )

    assert sent(call)["files"] == sent(call)["files"] == {"file": "content"}


def test_a_user_needs_no_session(user):
    """In a plain view and in DRF's; what a request does to the user's object does not reach the next one."""
    call = Call.get("/who/", user=user)

    assert sent(Call.post("/echo/", user=user))["user"] == "payer"
    assert sent(call) == sent(call) == {"user": "payer", "name": "x"}
    assert send(call.changed(user=None), None).status == 401


def test_a_user_who_is_gone_is_nobody(user, client):
    """As for a server that is sent a token of a user who was deleted."""
    call = Call.post("/echo/", user=user)
    type(user).objects.filter(pk=user.pk).delete()

    assert sent(call)["user"] == "AnonymousUser"
    assert send(Call.get("/who/", user=user), None).status == 401


def test_a_client_of_drf_is_one(api):
    """With its token."""
    assert sent(Call.get("/who/", client=api))["user"] == "payer"
    assert sent(Call.post("/echo/", {"a": 1}, client=api)).items() >= {"body": '{"a": 1}', "key": "key-1"}.items()


def test_a_changed_call_is_another(user, client):
    """The first one stays as it is; another user is not sent by the first one's client."""
    call = Call.post("/echo/", {"a": 1}, client=client)

    assert sent(call.changed(data={"a": 2}))["body"] == '{"a": 2}'
    assert sent(call.changed(user=user))["user"] == "payer"
    assert sent(call)["user"] == "AnonymousUser"
    assert str(call) == "POST /echo/"


def test_another_payload_can_be_made_of_each():
    """By a member, or by the query."""
    assert json.loads(sent(Call.post("/echo/", {"a": 1}).with_other_payload())["body"])["a"] == 1
    for path_, data in (("/echo/", [1]), ("/echo/?a=1", None)):
        call = Call.post(path_, data)
        assert sent(call.with_other_payload())["path"] != sent(call)["path"]


def test_replies_say_what_came_back(client):
    """Errors of the view as a server's 500, whether or not the client raises them."""
    for call in (Call.post("/failing/"), Call.post("/failing/", client=client)):
        reply = send(call, "key-1")
        assert (reply.status, reply.error) == (500, "ValueError: no")
        assert str(reply).endswith("(ValueError: no)")
    assert send(Call.get("/file/"), None).body == b"content"
    reply = send(Call.post("/problem/"), None)
    assert (reply.code, reply.view) == ("key-reused", "tests.kit.test_calls.<lambda>")
    assert send(Call.post("/list/"), None).code == send(Call.post("/text/"), None).code == ""
    assert str(send(Call.post("/text/"), None)).endswith("x…")
    assert send(Call.post("/nowhere/"), None).view == ""


def test_what_a_function_returns_is_a_reply():
    """And what it raises: refusals with their code, anything else as 500."""

    def refuse(key):
        raise KeyReused

    assert send(lambda key: {"key": key}, "a").body == b'{"key": "a"}'
    assert send(lambda key: {"key": key}, "a").is_result
    assert (send(refuse, "a").status, send(refuse, "a").code) == (422, "key-reused")
    assert send(lambda key: 1 / 0, "a").error.startswith("ZeroDivisionError")


def test_a_client_comes_again_while_it_is_told_to():
    """Until its answer is final, or its patience at an end."""
    answers = [RequestInProgress(), RequestInProgress(), None]

    def call(key):
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return "done"

    assert send_until_final(call, "a").body == b'"done"'
    answers[:] = [RequestInProgress(), None]
    assert send_until_final(call, "a", patience=0).code == "request-in-progress"


def test_keys_are_new():
    """Each time, and tell their age."""
    assert new_key() != new_key()
    check_age(new_key(), max_age=60, now=time.time())
