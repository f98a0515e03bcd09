"""The form for people: its key is in a hidden field, and a double click pays once."""

import re

import pytest

from sample_project.payments.models import Charge

HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


@pytest.fixture
def form(client, ann, account) -> dict[str, str]:
    """The form as Ann's browser has it."""
    client.force_login(ann)
    fields = dict(HIDDEN.findall(client.get("/pay/").content.decode()))
    return {**fields, "account": str(account.pk), "amount": "100", "reference": "order 1"}


def test_a_double_click_pays_once(client, form):
    answers = [client.post("/pay/", form) for _ in range(2)]

    assert [(each.status_code, each["Location"]) for each in answers] == [(302, "/pay/")] * 2
    assert [each.get("Idempotency-Replayed") for each in answers] == [None, "true"]
    assert Charge.objects.count() == 1
    assert client.get("/pay/").content.decode().count("order 1 is paid.") == 1


def test_an_error_is_mended_with_the_same_key(client, form):
    shown = client.post("/pay/", {**form, "amount": "0"})
    assert (shown.status_code, form["_idempotency_key"] in shown.content.decode()) == (200, True)
    assert client.post("/pay/", form).status_code == 302
    assert Charge.objects.count() == 1


def test_a_decline_is_recorded(client, form):
    declined = client.post("/pay/", {**form, "amount": "99999"})
    assert (declined.status_code, Charge.objects.get().status) == (302, Charge.Status.DECLINED)


def test_somebody_who_is_not_logged_in_gets_no_replay(client, form):
    client.post("/pay/", form)
    client.logout()
    assert client.post("/pay/", form)["Location"].startswith("/api-auth/login/")
