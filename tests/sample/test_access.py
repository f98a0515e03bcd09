"""Who may do what, by which login; and that a key opens nothing to anybody else."""

import pytest
from rest_framework.test import APIClient

from sample_project.payments.models import Account, Charge

ORDER = {"amount": 1250, "currency": "EUR", "reference": "order 1"}


@pytest.fixture
def path(account):
    return f"/api/accounts/{account.pk}/charges/"


def test_a_token_is_to_be_had_for_a_password(ann):
    response = APIClient().post("/api/token/", {"username": "ann", "password": "sample-password"})

    assert response.json() == {"token": ann.auth_token.key}


def test_without_a_login_there_is_nothing(path, post):
    """401 before anything is looked up, stored answers too."""
    post(path, ORDER, key="k-1")
    response = post(path, ORDER, key="k-1", client=APIClient())

    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Token")


def test_another_users_account_is_not_found(path, post, client_of, bob):
    """To read it, to charge it, and to send the owner's own request again."""
    post(path, ORDER, key="k-1")
    bobs = client_of(bob)

    assert bobs.get(path).status_code == 404
    assert bobs.get(path.removesuffix("charges/")).status_code == 404
    assert bobs.get("/api/accounts/").json()["results"] == []
    assert post(path, ORDER, key="k-2", client=bobs).status_code == 404
    assert post(path, ORDER, key="k-1", client=bobs).status_code == 404
    assert Charge.objects.count() == 1


def test_staff_may_look_and_not_touch(path, post, client_of, support):
    """403 and not 404, for they know of the account; for a replay of the owner's request as well."""
    post(path, ORDER, key="k-1")
    theirs = client_of(support)

    assert theirs.get(path).json()["count"] == 1
    assert post(path, ORDER, key="k-2", client=theirs).status_code == 403
    assert post(path, ORDER, key="k-1", client=theirs).status_code == 403
    assert Charge.objects.count() == 1


def test_two_users_may_choose_the_same_key(path, post, client_of, bob):
    """Each gets one's own charge."""
    other = Account.objects.create(owner=bob, name="Current", currency="EUR", balance=10_000)
    first = post(path, ORDER, key="k-1").json()
    second = post(f"/api/accounts/{other.pk}/charges/", ORDER, key="k-1", client=client_of(bob))

    assert second.status_code == 201
    assert "Idempotency-Replayed" not in second
    assert (second.json()["account"], Charge.objects.count()) == (other.pk, 2)
    assert second.json()["id"] != first["id"]


def test_an_account_that_changes_hands_takes_its_answers_along_to_nobody(path, post, account, bob):
    """The view asks at every retry whose account it is, before anything stored is shown."""
    post(path, ORDER, key="k-1")
    Account.objects.filter(pk=account.pk).update(owner=bob)

    assert post(path, ORDER, key="k-1").status_code == 404


def test_a_session_works_as_well(ann, path, account):
    """The browsable API's login, with CSRF enforced; the key is the user's, by whichever login."""
    browser = APIClient(enforce_csrf_checks=True)
    form = browser.get("/api-auth/login/?next=/api/")
    fields = {"username": "ann", "password": "sample-password"}
    fields["csrfmiddlewaretoken"] = form.cookies["csrftoken"].value
    login = browser.post("/api-auth/login/?next=/api/", fields)
    assert (login.status_code, login["Location"]) == (302, "/api/")

    page = browser.get(path, headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert b"Django REST framework" in page.content

    headers = {"Idempotency-Key": "k-1"}
    forged = browser.post(path, ORDER, format="json", headers=headers)
    assert (forged.status_code, Charge.objects.count()) == (403, 0)

    headers["X-CSRFToken"] = browser.cookies["csrftoken"].value
    first = browser.post(path, ORDER, format="json", headers=headers)
    again = browser.post(path, ORDER, format="json", headers=headers)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert Charge.objects.count() == 1


def test_the_same_key_by_token_and_by_session_is_one(ann, path, post, client):
    """It is the user's key, however the user has logged in."""
    first = post(path, ORDER, key="k-1")
    browser = APIClient()
    browser.force_login(ann)

    assert post(path, ORDER, key="k-1", client=browser).content == first.content
    assert Charge.objects.count() == 1


def test_the_api_can_be_browsed(ann, client, account):
    client.force_login(ann)
    page = client.get("/api/", headers={"Accept": "text/html"})

    assert page.status_code == 200
    assert b"/api/accounts/" in page.content


@pytest.mark.parametrize("model", ["account", "charge", "refund", "transfer", "deposit"])
def test_the_admin_shows_the_ledger(admin_client, post, path, model):
    """And adds nothing to it, but accounts."""
    post(path, ORDER, key="k-1")

    assert admin_client.get(f"/admin/payments/{model}/").status_code == 200
    add = admin_client.get(f"/admin/payments/{model}/add/")
    assert add.status_code == (200 if model == "account" else 403)


def test_the_api_answers_in_json_where_nothing_is(client):
    """For a path that no route matches; other paths get a page."""
    assert client.get("/api/accounts/none/").json() == {"detail": "Not found."}
    assert client.get("/nowhere/").headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("query", ["limit=many", "offset=-1", "offset=1&offset=x"])
def test_a_page_that_cannot_be_read_is_refused(ann, client_of, query):
    assert client_of(ann).get(f"/api/accounts/?{query}").status_code == 400
    assert client_of(ann).get("/api/accounts/?limit=2&offset=0").status_code == 200
