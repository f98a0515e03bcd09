"""`@replayed` sends what a test sends a second time, and finds what is not replayed."""

import functools
import unittest

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, TestCase
from django.utils.functional import classproperty
from rest_framework.test import APIClient

from django_idempotency.testing import NotProved, records, replayed
from tests.app.models import Payment

pytestmark = [pytest.mark.usefixtures("gallery"), pytest.mark.django_db(databases=["default", "other"])]


def test_a_test_sees_one_request_and_its_first_answer(browser):
    """Django's client; the request without a key gets one."""

    @replayed
    def test():
        return browser.post("/right/", {"amount": 10})

    response = test()

    assert response.status_code == 201
    assert "Idempotency-Replayed" not in response.headers
    assert Payment.objects.count() == 1
    assert records().count() == 1


@replayed
def test_a_test_with_fixtures(browser):
    """pytest sees the fixtures that it asks for."""
    assert browser.post("/right/").status_code == 201
    assert Payment.objects.count() == 1


def test_the_clients_of_drf_are_meant_as_well(user):
    """A request that carries a key keeps it, and its files are sent again."""
    api = APIClient()
    api.force_authenticate(user)
    with replayed():
        response = api.post("/right-drf/", {"amount": 10}, format="json", headers={"Idempotency-Key": "0e0f"})
        api.post("/right/", {"file": SimpleUploadedFile("a.txt", b"content")}, format="multipart")

    assert response.data == {"id": Payment.objects.first().pk}
    assert [record.key for record in records(operation="POST right-drf/")] == ["0e0f"]
    assert Payment.objects.count() == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unprotected", ["ran again", "table app_payment: 1 row added", "gallery.py", "@idempotent"]),
        ("kept-by-nobody", ["ran again"]),
        ("before-the-handler", ["changed something all the same", "table app_payment", "in before"]),
        ("hook-before-the-handler", ["changed something all the same", "in an on_commit hook"]),
        ("e-mail-afterwards", ["changed something all the same", "'You have paid'"]),
        ("counter-in-the-answer", ["differs from the first answer", '"served": ']),
        ("counter-in-a-header", ["differs from the first answer", "x-receipt"]),
    ],
)
def test_each_wrong_view_is_caught(name, told, browser):
    """At the request that was not replayed."""
    with pytest.raises(NotProved) as caught, replayed():
        browser.post(f"/{name}/")

    assert f"POST /{name}/" in str(caught.value)
    for each in told:
        assert each in str(caught.value)


def test_paths_can_be_skipped(browser):
    """With all that is below them; and what may change with each request is named."""
    with replayed(skip=["/unprotected", "/kept-by-nobody/"], ignore=["app_payment"]):
        browser.post("/unprotected/")
        browser.post("/kept-by-nobody/")
        browser.post("/before-the-handler/")
    with pytest.raises(NotProved), replayed(skip=["/unprot"]):
        browser.post("/unprotected/")


def test_other_requests_are_left_alone(browser):
    """Those that read, those that are refused, and those that are replays already."""
    with replayed():
        assert browser.post("/right/", headers={"Idempotency-Key": "a, b"}).status_code == 400
        browser.put("/right-document/")
        browser.get("/right-document/")
        for expected in (None, "true"):
            response = browser.post("/right/", headers={"Idempotency-Key": "key-1"})
            assert response.headers.get("Idempotency-Replayed") == expected

    assert Payment.objects.count() == 1


def test_a_test_that_repeats_nothing_proves_nothing(browser):
    """It fails, unless it has failed already."""
    with pytest.raises(NotProved, match="Nothing was replayed"), replayed():
        browser.get("/right-document/")
    with pytest.raises(ZeroDivisionError), replayed():
        raise ZeroDivisionError


def test_clients_are_as_before():
    """After the test, however it ended."""
    before = Client.request
    with pytest.raises(NotProved), replayed():
        assert Client.request is not before

    assert Client.request is before


def test_a_class_of_tests(settings):
    """Each of its tests is repeated; those that only read pass, and those that are async run as they are."""
    ran = []

    @replayed(skip=["/in-the-cache/"])
    class Tests(TestCase):
        def test_right(self):
            self.client.post("/right/")
            self.client.post("/in-the-cache/")

        def test_read(self):
            self.client.get("/right-document/")

        def test_wrong(self):
            self.client.post("/unprotected/")

        async def test_async(self):
            ran.append(self)

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)

    assert result.testsRun == 4
    ((failed, text),) = result.failures
    assert failed.id().endswith("test_wrong")
    assert "POST /unprotected/" in text
    assert not result.errors
    assert len(ran) == 1


def test_an_async_test_is_refused():
    """Its client is another one, which is not repeated."""

    async def test():
        pass

    for decorator in (replayed, replayed(skip=["/login/"])):
        with pytest.raises(TypeError, match="async"):
            decorator(test)


def test_static_methods(client):
    """And those of the class stay what they are, one by one and with their class."""

    class One:
        @replayed
        @staticmethod
        def test_static():
            return client.post("/right/").status_code

        @replayed
        @classmethod
        def test_class(cls):
            return cls, client.post("/right/").status_code

    @replayed
    class All:
        url = classproperty(lambda cls: cls.server)  # as of a LiveServerTestCase that was not started

        @staticmethod
        def test_static():
            client.post("/unprotected/")

        @classmethod
        def test_class(cls):
            client.post("/unprotected/")

        def post(self, path):
            client.post(path)

        test_partial = functools.partialmethod(post, "/unprotected/")

    assert One().test_static() == 201
    assert One().test_class() == (One, 201)
    for test in (All().test_static, All().test_class, All().test_partial):
        with pytest.raises(NotProved):
            test()
