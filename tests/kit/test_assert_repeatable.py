"""`assert_repeatable` holds the verbs to what HTTP says of them."""

import pytest
from django.db import connection

from django_idempotency.testing import Call, NotProved, assert_repeatable
from tests.app.models import Unique

pytestmark = [pytest.mark.usefixtures("gallery"), pytest.mark.django_db]


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT", "DELETE"])
def test_right_views_pass(method):
    """A GET that reads, a PUT that sets (201, then 200), a DELETE that deletes (204, then 404)."""
    Unique.objects.create(name="document")
    if method == "PUT":
        Unique.objects.all().delete()

    assert_repeatable(Call(method=method, path="/right-document/"))


@pytest.mark.parametrize("path", ["/right-count/", "/right-page/"])
def test_a_get_may_fill_a_cache(path):
    """A value, or the page: the next request leaves it alone."""
    assert_repeatable(Call.get(path))


def test_a_user_may_delete_itself(user):
    """Nobody sends the request from then on, and nobody may."""
    assert_repeatable(Call.delete("/right-account/", user=user), times=3)


def test_an_answer_may_lead_elsewhere(settings):
    """To anything but the login, which a project need not have."""
    settings.LOGIN_URL = "a-view-that-is-not-there"

    assert_repeatable(Call.get("/moved/"))
    assert_repeatable(Call.put("/moved/?to=/moved/"))  # as after a form
    assert_repeatable(Call.get("/moved/?to=/moved-document/?next=/an-offer/"))


@pytest.mark.parametrize("path", ["/nowhere/", "/for-users/", "/sent-away/", "/right-document"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_turned_away_proves_nothing(method, path, client, settings):
    """What is not found, sent to the login, or sent to its own path with a slash has not been tried."""
    settings.MIDDLEWARE = ["django.middleware.common.CommonMiddleware", *settings.MIDDLEWARE]
    for call in (Call(method=method, path=path), lambda key: client.generic(method, path)):
        with pytest.raises(NotProved, match=r"nothing (to delete)|proves nothing") as caught:
            assert_repeatable(call)
        assert len(caught.value.findings) == 1


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/counted-in-the-cache/", ["GET is safe", "request 2 changed", "readers' of cache", "`cache:"]),
        ("GET", "/nowhere/", ["Request 1 was answered 404"]),
        ("GET", "/for-users/", ["Request 1 was led elsewhere", "/sign-in/?next=", "`user`"]),
        ("GET", "/wrong-document/", ["GET is safe", "request 1 changed", "name='reader 3'", "gallery.py", "in get"]),
        ("PUT", "/wrong-document/", ["PUT is idempotent", "request 2 changed", "reference='appended'", "in paid"]),
        ("DELETE", "/wrong-document/", ["request 2 changed", "1 row removed", "name='second'"]),
        ("PUT", "/forgetful-document/", ["Request 2 was answered 409 after 201"]),
        ("DELETE", "/forgetful-document/", ["request 2 changed", "sent: e-mail 'Deleted'"]),
        ("DELETE", "/right-document/", ["nothing to delete"]),
        ("GET", "/right-drf/", ["Request 1 was answered 405"]),
    ],
)
def test_each_wrong_view_is_caught(method, path, told):
    """The failure names the request, what it changed and where."""
    for name in ("first", "second", "third"):
        Unique.objects.create(name=name)
    with pytest.raises(NotProved) as caught:
        assert_repeatable(Call(method=method, path=path))

    assert f"{method} {path}" in str(caught.value)
    for each in told:
        assert each in str(caught.value)


@pytest.mark.django_db(transaction=True)
def test_a_table_without_a_model_is_seen():
    """What is written by hand is found as well; a table of mere logs can be left out."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kit_log (line varchar(20))")
        try:
            with pytest.raises(NotProved, match="table kit_log: 1 row added"):
                assert_repeatable(Call.get("/table-without-a-model/"))
            assert_repeatable(Call.get("/table-without-a-model/"), ignore=["kit_log"])
        finally:
            cursor.execute("DROP TABLE kit_log")


def test_a_callable_is_a_call(client):
    """The method is then that of its requests."""
    assert_repeatable(lambda key: client.put("/right-document/"), times=3)
    with pytest.raises(NotProved, match=r"PUT .*WrongDocument. is not repeatable"):
        assert_repeatable(lambda key: client.put("/wrong-document/"))
    with pytest.raises(ValueError, match="POST is not repeatable"):
        assert_repeatable(lambda key: client.post("/right/"))


def test_what_cannot_be_repeated():
    """POST and PATCH need a key, and a repetition two requests."""
    for method in ("POST", "PATCH"):
        with pytest.raises(ValueError, match=f"{method} is not repeatable by definition"):
            assert_repeatable(Call(method=method, path="/right/"))
    with pytest.raises(ValueError, match="at least two times"):
        assert_repeatable(Call.get("/right-document/"), times=1)
