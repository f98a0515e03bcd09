"""A record's page in the admin: what it shows, to whom, and what it makes of bad data."""

import json
from datetime import timedelta
from html import unescape

import pytest
from django.apps import apps
from django.core import checks
from django.db import connections
from django.test.utils import CaptureQueriesContext

from django_idempotency.core.record import JSON as JSON_REFERENCE
from django_idempotency.core.record import LEFT_OUT, CompletionRecord
from django_idempotency.models import AnswerEnd
from tests.operations.pages import JSON, make_record, make_unsettled, page, text

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.operations.admin_urls")]

SCRIPT = "<script>alert(1)</script>"


def test_a_page_shows_what_was_asked_and_answered(admin_client):
    record = make_record("key-1", headers=(*JSON, ("X-Balance", "90")))

    shown = text(admin_client.get(page("change", record)))

    for part in ("POST", "shop.example", "pay/", "auth.user:1", "key-1", "request-1", "01" * 32, str(record)):
        assert part in shown
    assert "201 Created" in shown
    assert "completed" in shown
    assert "X-Balance" in shown
    assert "(computed for each replay)" in shown
    assert '{\n  "id": 1,\n  "amount": 10\n}' in unescape(shown)


def test_a_record_cannot_be_added_edited_or_deleted(admin_client):
    """Not even by a superuser."""
    record = make_record()

    assert admin_client.post(page("change", record), {"key": "x"}).status_code == 403
    assert admin_client.post(page("delete", record), {"post": "yes"}).status_code == 403
    assert admin_client.get(page("add")).status_code == 403
    assert 'name="_save"' not in text(admin_client.get(page("change", record)))
    assert "delete_selected" not in text(admin_client.get(page("changelist")))
    record.refresh_from_db()


def test_headers_and_bodies_need_a_permission(operator):
    """Without it they are not shown, not downloaded, and not even read from the database."""
    client = operator()
    record = make_record(body=b'{"secret":"body"}', headers=(("X-Secret", "header"),))

    with CaptureQueriesContext(connections["default"]) as queries:
        response = client.get(page("change", record))
    shown = text(response)

    assert response.status_code == 200
    assert "key-1" in shown
    assert "201 Created" in shown
    assert "You have no permission to see stored responses." in shown
    assert "secret" not in shown.replace("csrfmiddlewaretoken", "").lower()
    assert not [query for query in queries if "body" in query["sql"] or '"head"' in query["sql"]]
    assert client.get(page("body", record)).status_code == 403


def test_with_the_permission_they_are_shown(operator):
    client = operator("view_stored_response")
    record = make_record(body=b'{"secret":"body"}', headers=(("X-Secret", "header"),))

    shown = text(client.get(page("change", record)))

    assert "X-Secret" in shown
    assert "body" in shown
    assert client.get(page("body", record)).content == b'{"secret":"body"}'


def test_without_the_permission_to_view_there_is_nothing(operator):
    client = operator("view_stored_response", "free_key", "settle_outcome", view=False)
    record = make_record()
    unsettled = make_unsettled("key-2")

    for name in ("change", "history", "body", "free"):
        assert client.get(page(name, record)).status_code == 403, name
    assert client.post(page("free", record), {"reason": "x"}).status_code == 403
    assert client.get(page("settle", unsettled)).status_code == 403
    assert client.get(page("changelist")).status_code == 403


def test_columns_cannot_be_guessed_at(operator):
    """`?body__startswith=` would tell a body to who may not see it, letter by letter."""
    client = operator()
    make_record()

    for lookup in ("body", "body__contains", "head__startswith", "key", "key__startswith", "scope__in", "pk", "digest"):
        assert client.get(page("changelist"), {lookup: "x"}).status_code == 400, lookup


def test_another_site_shows_its_own_links(admin_client):
    """An admin site of another name: every link stays inside it."""
    record = make_record()
    client_page = page("change", record, site="other-admin")
    assert client_page.startswith("/other-admin/")

    for url in (client_page, page("changelist", site="other-admin"), page("free", record, site="other-admin")):
        shown = text(admin_client.get(url))
        assert 'href="/admin/' not in shown
        assert 'href="/other-admin/' in shown


@pytest.mark.parametrize(
    "wrong", ["0" * 63, "g" * 64, "00" * 32, "é", "'; --", "00" * 32 + "@nowhere", "a\x00b", SCRIPT]
)
@pytest.mark.parametrize("name", ["change", "body", "free", "settle"])
def test_an_address_without_a_record_leads_back(admin_client, name, wrong):
    """What is no identity, or nobody's: a warning that shows it as text, and no error."""
    response = admin_client.get(page(name, wrong), follow=True)

    assert response.status_code == 200
    assert response.redirect_chain
    assert SCRIPT not in text(response)
    assert 'class="warning"' in text(response)


@pytest.mark.parametrize("head", [b"", b"\xff\xfe", b"{", b"null", b'["OK", [["a", 1]]]'])
def test_a_broken_head_is_said(admin_client, head):
    shown = text(admin_client.get(page("change", make_record(head=head))))

    assert "cannot be read" in shown
    assert "&quot;amount&quot;: 10" in shown


def test_a_tombstone_has_no_answer(admin_client):
    """It says so, in the list too, and offers no download of what may still be there."""
    ended = make_record()
    AnswerEnd.objects.create(digest=ended.digest, executed_at=ended.executed_at, ends_at=ended.executed_at)

    shown = text(admin_client.get(page("change", ended)))

    assert "Not kept any more" in shown
    assert "amount" not in shown
    assert "201" not in text(admin_client.get(page("changelist"))).partition("<tbody>")[2].partition("</tbody>")[0]
    assert b"amount" not in b"".join(admin_client.get(page("body", ended)))


@pytest.mark.parametrize("status", [2, 99, 299, 999, 32767])
def test_a_status_that_http_does_not_know(admin_client, status):
    record = make_record(status=status)

    assert f">{status} <" in text(admin_client.get(page("change", record))).replace("\n", "")
    assert admin_client.get(page("changelist")).status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (SCRIPT.encode(), "text/html", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        (json.dumps({"a": SCRIPT}).encode(), "application/json", "&lt;script&gt;"),
        (b"<svg onload=alert(1)>", "image/svg+xml", "&lt;svg onload=alert(1)&gt;"),
        (b"</pre>" + SCRIPT.encode(), "text/plain", "&lt;/pre&gt;&lt;script&gt;"),
        (b"a\xff\xfeb", "text/plain", r"a\xff\xfeb"),
        (b"a\x00b", "text/plain", r"a\x00b"),
    ],
)
def test_a_text_is_text(admin_client, body, content_type, expected):
    """Markup in a body is read, never rendered; bytes that are no text are spelled out."""
    shown = text(admin_client.get(page("change", make_record(body=body, headers=(("Content-Type", content_type),)))))

    assert expected in shown
    assert SCRIPT not in shown
    assert "<svg onload" not in shown


def test_markup_in_every_column_is_text(admin_client):
    record = make_record(
        SCRIPT, scope=SCRIPT, operation=SCRIPT, request=f"POST {SCRIPT} {SCRIPT}", request_id=SCRIPT,
        headers=((SCRIPT, SCRIPT), ("X-A", "a\x00b"), ("Content-Type", SCRIPT)),
    )  # fmt: skip

    pages = [page("change", record), page("changelist"), page("free", record), page("history", record)]
    for url in pages:
        response = admin_client.get(url)
        assert response.status_code == 200
        assert SCRIPT not in text(response), url
    assert r"a\x00b" in text(admin_client.get(pages[0]))


def test_a_key_of_255_strange_characters(admin_client):
    key = "".join(chr(33 + number % 94) for number in range(255))
    record = make_record(key)

    for url in (page("change", record), page("changelist"), page("free", record)):
        assert key in unescape(text(admin_client.get(url)))


def test_a_binary_body_is_its_size(admin_client):
    record = make_record(body=b"%PDF-1.7\x00" * 500, headers=(("Content-Type", "application/pdf"),))

    shown = text(admin_client.get(page("change", record)))

    assert "application/pdf, 4.4\xa0KB" in unescape(shown)
    assert "PDF-1" not in shown
    assert page("body", record) in shown


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            CompletionRecord(status=201, instead=LEFT_OUT),
            "Not stored: the option store_body of its view leaves it out.",
        ),
        (
            CompletionRecord(status=201, body=b'"pay-7"', instead=JSON_REFERENCE),
            "A reference, from which the option replay of its view renders the answer, 7\xa0bytes",
        ),
    ],
    ids=["left out", "reference"],
)
def test_what_is_stored_in_the_place_of_a_body_is_said(admin_client, answer, says):
    shown = text(admin_client.get(page("change", make_record(head=answer.head(), body=answer.body))))

    assert says in shown
    assert ("&quot;pay-7&quot;" in shown) is (answer.instead == JSON_REFERENCE)


def test_a_large_body_is_cut_on_the_page_and_whole_in_the_download(admin_client):
    body = json.dumps(["x" * 60] * 17_000).encode()
    assert len(body) > 1024 * 1024
    record = make_record(body=body)

    response = admin_client.get(page("change", record))

    assert len(response.content) < 200_000
    assert "the rest is in the download" in text(response)
    assert admin_client.get(page("body", record)).content == body


@pytest.mark.parametrize(
    ("content_type", "suffix"),
    [("text/html", "txt"), ("application/json", "json"), ("image/svg+xml", "txt"), ("application/pdf", "bin")],
)
def test_a_download_is_never_rendered(admin_client, content_type, suffix):
    """Whatever the answer called it: bytes to be kept, under a name that opens no browser."""
    record = make_record(body=b'"x"', headers=(("Content-Type", content_type),))

    response = admin_client.get(page("body", record))

    assert response.content == b'"x"'
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Disposition"] == f'attachment; filename="{str(record)[:16]}.{suffix}"'
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert "no-store" in response["Cache-Control"]


def test_an_empty_body_and_an_unsettled_one(admin_client):
    """Nothing to download, nothing broken."""
    empty = make_record("empty", status=204, body=b"", headers=())
    unsettled = make_unsettled("unsettled")

    assert "204 No Content" in text(admin_client.get(page("change", empty)))
    assert "ended the transaction by itself" in text(admin_client.get(page("change", unsettled)))
    for record in (empty, unsettled):
        assert page("body", record) not in text(admin_client.get(page("change", record)))
        assert admin_client.get(page("body", record)).content == b""


def test_an_expired_record_says_so_and_offers_nothing(admin_client):
    record = make_record(ttl=timedelta(seconds=-1))

    shown = text(admin_client.get(page("change", record)))

    assert "expired" in shown
    assert page("free", record) not in shown


@pytest.mark.django_db(databases=["default", "other"])
def test_a_record_of_another_database(admin_client):
    """Listed where that database is chosen, shown and downloaded by an address that names it."""
    here, there = make_record("key-here"), make_record("key-there", using="other")

    listed = text(admin_client.get(page("changelist"), {"database": "other"}))
    assert "key-there" in listed
    assert "key-here" not in listed
    assert page("change", there) in listed
    assert "_40other" in page("change", there)
    assert "key-there" in text(admin_client.get(page("change", there)))
    assert admin_client.get(page("body", there)).content == bytes(there.body)
    default = text(admin_client.get(page("changelist")))
    assert "key-here" in default
    assert "key-there" not in default
    assert "key-here" in text(admin_client.get(page("changelist"), {"database": "nowhere"}))
    assert admin_client.get(page("change", str(there)), follow=True).redirect_chain
    assert here.pk != there.pk


@pytest.mark.django_db(databases=["default", "other"])
def test_a_database_without_the_table(admin_client):
    """A router that nobody has told otherwise allows the table anywhere: the usual database is shown instead."""
    make_record("key-here")
    there = make_record("key-there", using="other")
    url = page("change", there)
    with connections["other"].cursor() as cursor:
        cursor.execute("ALTER TABLE django_idempotency_record RENAME TO elsewhere")

    assert "key-here" in text(admin_client.get(page("changelist"), {"database": "other"}))
    assert admin_client.get(url, follow=True).redirect_chain


def test_the_admin_passes_djangos_checks():
    assert checks.run_checks(app_configs=[apps.get_app_config("django_idempotency")], tags=["admin"]) == []
