"""Forms: the key in a hidden field, redirects as the only answers, pages in the place of problem details."""

import re
from datetime import timedelta
from io import BytesIO

import pytest
from django.contrib import messages
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.http import HttpResponse, HttpResponseRedirect
from django.template import engines
from django.test import Client
from django.views.decorators.cache import cache_page
from rest_framework.decorators import api_view, parser_classes
from rest_framework.parsers import FormParser

from django_idempotency import idempotent, outcomes
from django_idempotency.core.keys import is_uuid
from django_idempotency.models import IdempotencyRecord
from django_idempotency.templatetags.idempotency import new_key
from tests.app.models import Payment
from tests.app.serving import VENDOR, is_replay
from tests.forms import site
from tests.forms.conftest import KEY, amounts, key_in

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.forms.site")]

MIDDLEWARE = "django_idempotency.middleware.IdempotencyMiddleware"


def is_page(response) -> bool:
    return response.headers["Content-Type"].startswith("text/html") and b"<h1>" in response.content


# --- the key ---


@pytest.mark.parametrize("url", ["/pay/", "/class/"])
def test_a_form_takes_effect_once(submit, visitor, url):
    """Sent twice with the key that its page had, it makes one row, and both answers lead to it."""
    key = key_in(visitor.get(url))
    first, second = submit(url, key), submit(url, key)

    assert is_uuid(key)
    assert amounts() == [10]
    assert (first.status_code, second.status_code) == (302, 302)
    assert second.headers["Location"] == first.headers["Location"]
    assert (is_replay(first), is_replay(second)) == (False, True)


def test_keys_are_new_and_in_order():
    """UUIDs of version 7."""
    keys = [new_key() for _ in range(100)]

    assert len(set(keys)) == 100
    assert {key[14] for key in keys} == {"7"}
    assert [key[:8] for key in keys] == sorted(key[:8] for key in keys)


@pytest.fixture
def send(settings):
    """Send a form from a page with a CSRF token of its own. The check reads the form before the view does."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    client = Client(enforce_csrf_checks=True, headers={"Accept": "text/html"})

    def send(url, **fields):
        token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/pay/").content)[1].decode()
        sent = {"csrfmiddlewaretoken": token, "_idempotency_key": KEY, "amount": 10, "reference": "a", **fields}
        return client.post(url, sent)

    return send


def test_the_csrf_token_is_no_part_of_it(send):
    """It is another one on each page."""
    for _ in range(2):
        assert send("/pay/").status_code == 302
    for _ in range(2):
        assert send("/upload/", file=SimpleUploadedFile("a.txt", b"abc")).status_code == 302
    assert amounts() == [10, 3]


@pytest.mark.parametrize("key", ["", "k" * 256, "é", "a\tb", [KEY, "another"]])
def test_a_malformed_key_is_refused_with_a_page(submit, key):
    """And a way back. So are two keys."""
    response = submit(key=key, headers={"Referer": "http://testserver/shop/?page=2"})

    assert response.status_code == 400
    assert is_page(response)
    assert b'href="http://testserver/shop/?page=2"' in response.content
    assert amounts() == []


def test_key_format_holds_for_forms(serve, submit):
    """400, as a page."""
    serve(idempotent(key_format="uuid")(site.pay))

    assert submit("/act/", "abc").status_code == 400
    assert submit("/act/", KEY).status_code == 302


def test_header_and_field_must_not_differ(submit, visitor):
    """
    400 if they do, in an upload, too. If they do not, it is the request of a program: problem details, and any 2xx is
    an answer.
    """
    differing = submit(headers={"Idempotency-Key": "another"})
    assert (differing.status_code, differing.json()["code"]) == (400, "key-invalid")
    upload = {"file": SimpleUploadedFile("a.txt", b"abc"), "_idempotency_key": KEY}
    assert visitor.post("/upload/", upload, headers={"Idempotency-Key": "another"}).status_code == 400

    shown = submit(amount="0", headers={"Idempotency-Key": KEY})
    assert (shown.status_code, is_replay(submit(amount="0", headers={"Idempotency-Key": KEY}))) == (200, True)
    reused = submit(headers={"Idempotency-Key": KEY})
    assert (reused.status_code, reused.json()["code"]) == (422, "key-reused")


def test_other_requests_are_read_as_before(serve, submit, visitor):
    """JSON, a form without a key, a view whose `form_key` is off, and a view of DRF, whose data it is."""
    assert [submit(key=None).status_code for _ in range(2)] == [302, 302]
    json = {"_idempotency_key": KEY, "amount": 1}
    serve(idempotent(lambda request: HttpResponseRedirect(f"/{Payment.objects.create(amount=1).pk}")))
    locations = {visitor.post("/act/", json, content_type="application/json").headers["Location"] for _ in range(2)}
    assert len(locations) == 2

    serve(idempotent(form_key=False)(site.pay))
    assert not any(is_replay(submit("/act/")) for _ in range(2))

    @api_view(["POST"])
    @parser_classes([FormParser])
    @idempotent
    def of_drf(request):
        return HttpResponse(request.data["_idempotency_key"], status=201)

    serve(of_drf)
    responses = [submit("/act/") for _ in range(2)]
    assert {(each.status_code, each.content.decode(), is_replay(each)) for each in responses} == {(201, KEY, False)}


# --- what is an answer ---


def test_a_form_with_errors_is_mended_under_its_key(submit):
    """It is shown again with the same key. Nothing was stored, so that it is no reuse; then it is answered once."""
    shown = submit(amount="0")

    assert shown.status_code == 200
    assert b"More than nothing." in shown.content
    assert key_in(shown) == KEY
    assert not IdempotencyRecord.objects.exists()
    assert [is_replay(submit(amount="5")) for _ in range(2)] == [False, True]
    assert amounts() == [5]


def test_a_page_after_work_is_no_answer(serve, submit, caplog):
    """The work is rolled back, and the log says that a redirect is missing."""
    serve(idempotent(lambda request: HttpResponse(f"Paid {Payment.objects.create(amount=1).pk}")))

    assert submit("/act/").status_code == 200
    assert amounts() == []
    assert "redirect when the work is done" in caplog.text


@pytest.mark.parametrize("writes", [False, True])
def test_a_redirect_to_login_is_a_refusal(serve, submit, settings, writes):
    """Unless the handler has written, as for a program."""
    settings.LOGIN_URL = "/login/"

    def handler(request):
        if writes:
            Payment.objects.create(amount=1)
        return HttpResponseRedirect("/login/?next=/act/")

    serve(idempotent(handler))

    assert [is_replay(submit("/act/")) for _ in range(2)] == [False, writes]


def test_should_store_can_say_no_to_a_redirect(serve, submit):
    """It cannot say yes to a page."""
    serve(idempotent(should_store=lambda response: response.status_code == 200)(site.pay))

    assert not any(is_replay(submit("/act/")) for _ in range(2))
    assert not any(is_replay(submit("/act/", amount="0")) for _ in range(2))
    assert amounts() == []


def test_outcomes_redirects_for_any_view(serve, submit):
    """The same rule for keys in the header."""
    serve(idempotent(should_store=outcomes.redirects)(site.pay))
    header = {"Idempotency-Key": KEY}

    assert [is_replay(submit("/act/", None, amount="0", headers=header)) for _ in range(2)] == [False, False]
    assert [is_replay(submit("/act/", None, headers=header)) for _ in range(2)] == [False, True]


# --- messages ---


@pytest.mark.parametrize("storage", ["cookie.CookieStorage", "session.SessionStorage", "fallback.FallbackStorage"])
def test_a_message_is_shown_once(submit, settings, storage):
    """Whichever answer the browser has kept: the first, only the replay, or both."""
    settings.MESSAGE_STORAGE = f"django.contrib.messages.storage.{storage}"

    def messages_after(*answers):
        client = Client()
        key = new_key()
        for kept in answers:
            before = dict(client.cookies)
            response = submit(key=key, client=client, amount="7")
            assert response.status_code == 302
            if not kept and "messages" in client.cookies:  # a cookie of an answer that the browser has dropped
                client.cookies.clear()
                client.cookies.update(before)
        return client.get(response.headers["Location"]).content.count(b'class="message">Payment of 7<')

    assert messages_after(True) == 1
    assert messages_after(True, True) == 1
    assert messages_after(False, True) == 1
    assert amounts() == [7, 7, 7]


def test_a_message_stays_html(serve, submit, visitor):
    """What the handler said was safe is safe in a replay, and nothing else."""

    def handler(request):
        Payment.objects.create(amount=1)
        messages.info(request, engines["django"].from_string("<b>{{ it }}</b>").render({"it": "<i>"}))
        messages.error(request, "<script>", extra_tags="loud")
        return HttpResponseRedirect("/done/1/")

    serve(idempotent(handler), *site.urlpatterns)
    shown = []
    for _ in range(2):
        submit("/act/")
        shown.append([line for line in visitor.get("/done/1/").content.splitlines() if b"message" in line])

    assert shown[0] == shown[1]
    assert b"<b>&lt;i&gt;</b>" in shown[1][0]
    assert b"&lt;script&gt;" in shown[1][0]


# --- pages of refusals ---


def test_other_content_is_refused_with_a_way_back(submit):
    """422. The way back never leads to another site."""
    submit()
    for referer, link in (
        ("http://testserver/shop/", "http://testserver/shop/"),
        ("https://elsewhere.example/", "/pay/?a=1&amp;b=%22"),
        ("javascript:alert(1)", "/pay/?a=1&amp;b=%22"),
    ):
        submit("/pay/?a=1&b=%22", key="2")
        response = submit("/pay/?a=1&b=%22", key="2", amount="11", headers={"Referer": referer})

        assert response.status_code == 422
        assert is_page(response)
        assert f'<a href="{link}">' in response.content.decode()
        assert "no-store" in response.headers["Cache-Control"]
    assert amounts() == [10, 10]


def test_a_form_without_a_key_where_one_is_required(serve, submit):
    """A page for a browser, problem details for a program."""
    serve(idempotent(required=True)(site.pay))

    of_browser = submit("/act/", None)
    of_program = submit("/act/", None, client=Client())

    assert (of_browser.status_code, of_program.status_code) == (400, 400)
    assert is_page(of_browser)
    assert of_program.json()["code"] == "key-missing"
    assert "{% idempotency_key %}" in of_program.json()["detail"]


def test_a_cut_form_is_refused(rf):
    """Its key may be in what is missing."""
    cut = {"CONTENT_LENGTH": "500", "wsgi.input": BytesIO(b"amount=10&reference=a")}
    request = rf.post("/pay/", content_type="application/x-www-form-urlencoded", **cut)
    response = idempotent(site.pay)(request)

    assert (response.status_code, amounts()) == (400, [])


def test_the_page_speaks_the_projects_language(submit, settings):
    """Its language and direction are in its first line, and its texts can be translated."""
    settings.LANGUAGE_CODE = "ar"

    response = submit(key="")

    assert b'<html lang="ar" dir="rtl">' in response.content


def test_a_page_needs_no_static_files(submit, settings):
    """Of a project that has no URL for them, or whose storage is away."""
    settings.INSTALLED_APPS = [*{*settings.INSTALLED_APPS, "django.contrib.staticfiles"}]
    settings.STATIC_URL = None
    submit()

    response = submit(amount="11")

    assert response.status_code == 422
    assert is_page(response)
    assert b"stylesheet" not in response.content


def test_a_project_has_a_page_of_its_own(submit, settings):
    """With the refusal, the fields and the way back. One that cannot be rendered is replaced by the package's."""
    of_project = {"django_idempotency/refused.html": "{{ refusal.code }} {{ refusal.status }} {{ back }} {{ text }}"}
    broken = {"django_idempotency/refused.html": "{% include 'absent.html' %}{{ refusal.problem|divisibleby:0 }}"}
    for templates, expected in ((of_project, b"key-invalid 400 /pay/ Nothing was done."), (broken, b"<h1>")):
        backend = {**settings.TEMPLATES[0], "APP_DIRS": False}
        loader = ("django.template.loaders.locmem.Loader", templates)
        settings.TEMPLATES = [{**backend, "OPTIONS": {**backend["OPTIONS"], "loaders": [loader]}}]

        response = submit(key="")

        assert response.status_code == 400
        assert expected in response.content


# --- in flight ---

WAITS = pytest.mark.skipif(VENDOR == "sqlite", reason="A duplicate waits for SQLite's one writer.")


def held(gate):
    def handler(request):
        gate.wait()
        return site.pay(request)

    return handler


@pytest.mark.django_db(transaction=True)
def test_a_double_click_waits_for_the_result(serve, submit, gate, background):
    """It gets the first one's redirect."""
    serve(idempotent(held(gate)))
    first = background(submit, "/act/", client=Client())
    gate.reached()
    second = background(submit, "/act/", client=Client())
    gate.open()

    assert first.result().status_code == second.result().status_code == 302
    assert first.result().headers["Location"] == second.result().headers["Location"]
    assert amounts() == [10]


@WAITS
@pytest.mark.django_db(transaction=True)
def test_one_that_has_waited_too_long_asks_again(serve, submit, gate, background):
    """409, with the same form in the page: sent as it stands there, it is the same request."""
    serve(idempotent(wait_timeout=timedelta(milliseconds=50))(held(gate)))
    text = "a\r\nb <\"' &amp; ü"
    fields = {"reference": text, "twice": ["1", "2"], "empty": ""}
    first = background(submit, "/act/?q=1", client=Client(), **fields)
    gate.reached()
    refused = submit("/act/?q=1", **fields)
    gate.open()
    first.result()

    assert refused.status_code == 409
    assert refused.headers["Retry-After"] == "1"
    sent = engines["django"].from_string("{{ text }}").render({"text": text})
    assert f'<input type="hidden" name="reference" value="{sent}">' in refused.content.decode()
    assert b'action="/act/?q=1" enctype="application/x-www-form-urlencoded"' in refused.content
    assert b'data-seconds="1"' in refused.content
    assert is_replay(submit("/act/?q=1", **fields))


# --- uploads ---


def send_file(client, content=b"abc", **fields):
    return client.post("/upload/", {"file": SimpleUploadedFile("a.txt", content), "_idempotency_key": KEY, **fields})


def test_an_upload_takes_effect_once(visitor):
    """Another file under its key is another form."""
    first, second, other = send_file(visitor), send_file(visitor), send_file(visitor, b"abcd")

    assert (first.status_code, is_replay(second), other.status_code) == (302, True, 422)
    assert amounts() == [3]


def test_the_view_still_chooses_its_upload_handlers(serve, visitor):
    """With a key and without one: the field is looked for beside Django's own parsing."""
    seen = []

    class Counting(TemporaryFileUploadHandler):
        def receive_data_chunk(self, raw_data, start):
            seen.append(len(raw_data))
            return super().receive_data_chunk(raw_data, start)

    def handler(request):
        request.upload_handlers = [Counting(request)]
        return HttpResponseRedirect(f"/{Payment.objects.create(amount=request.FILES['file'].size).pk}")

    serve(idempotent(handler))
    content = b"x" * 3_000_000  # too large to be kept in memory
    for fields in ({"_idempotency_key": KEY}, {"_idempotency_key": KEY}, {}):
        response = visitor.post("/act/", {"file": SimpleUploadedFile("a.txt", content), **fields})
        assert response.status_code == 302

    assert sum(seen) == 6_000_000
    assert amounts() == [3_000_000, 3_000_000]


@pytest.mark.parametrize("mode", ["atomic", "observe"])
@pytest.mark.parametrize("key", [KEY, None])
def test_a_form_without_a_file_leaves_them_to_the_view(serve, submit, key, mode):
    """Django lets a view choose no handlers for a form that was parsed, of whichever type."""

    def handler(request):
        request.upload_handlers = [TemporaryFileUploadHandler(request)]
        return HttpResponseRedirect(f"/{Payment.objects.create(amount=request.POST['amount']).pk}")

    serve(idempotent(mode=mode)(handler))

    assert submit("/act/", key).status_code == 302
    assert amounts() == [10]


@WAITS
@pytest.mark.django_db(transaction=True)
def test_an_upload_in_flight_is_sent_again_by_the_browser(serve, visitor, gate, background):
    """A page cannot send a file again, so it asks its reader to reload it."""

    def handler(request):
        gate.wait()
        return site.upload.__wrapped__(request)

    serve(idempotent(wait_timeout=timedelta(milliseconds=50))(handler))

    def send():
        return Client().post("/act/", {"file": SimpleUploadedFile("a.txt", b"abc"), "_idempotency_key": KEY})

    first = background(send)
    gate.reached()
    refused = send()
    gate.open()

    assert refused.status_code == 409
    assert b"<form" not in refused.content
    assert b"Reload this page" in refused.content
    assert first.result().status_code == 302


# --- the middleware ---


def test_the_middleware_protects_forms(submit, visitor, settings):
    """Without a line in the view."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]

    assert [is_replay(submit("/bare/")) for _ in range(2)] == [False, True]
    assert key_in(submit("/bare/", new_key(), amount="0"))
    assert amounts() == [10]


def test_a_key_in_a_form_that_is_ignored_is_refused(send, settings):
    """By `UNPROTECTED`, where the CSRF check has read the form."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]
    settings.IDEMPOTENCY = {"UNPROTECTED": "refuse", "EXEMPT": ["bare/"]}

    response = send("/bare/")

    assert (response.status_code, amounts()) == (400, [])
    assert is_page(response)


# --- pages with a key ---


def test_django_caches_no_page_with_a_key(serve, visitor, settings):
    """Two visitors must not have one key."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    serve(cache_page(60)(site.pay))
    cache.clear()

    assert key_in(visitor.get("/act/")) != key_in(visitor.get("/act/"))


def test_each_form_of_a_page_has_a_key_of_its_own(rf):
    """Shown again, one of them has the key with which it was sent."""
    template = engines["django"].from_string("{% load idempotency %}{% idempotency_key %}{% idempotency_key %}")
    request = rf.post("/")
    request._idempotency_sent_key = KEY

    first, second = re.findall(r'value="([^"]+)"', template.render({}, request))

    assert first == KEY
    assert is_uuid(second)
    assert second != KEY
    assert template.render().count("hidden") == 2  # without a request, too
