"""The browsable API in a real browser: its script makes keys and sends them."""

import json
import time
from typing import Any

import pytest
from django.urls import path
from rest_framework import generics
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import Select, WebDriverWait

from django_idempotency import Policy
from django_idempotency.core.keys import time_of
from django_idempotency.models import IdempotencyRecord
from django_idempotency.renderers import BrowsableAPIRenderer
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import hearing
from tests.app.views import PaymentSerializer
from tests.browser.conftest import WAIT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("csrf"),
]

seen: list[set[str]] = []  # the names in each `request.data`


class Slow(PaymentSerializer):
    """An action takes long enough for a second click."""

    def to_internal_value(self, data: Any) -> Any:
        seen.append(set(data))
        return super().to_internal_value(data)

    def save(self, **kwargs: Any) -> Any:
        time.sleep(0.5)
        return super().save(**kwargs)


class Browsable(IdempotencyMixin):
    idempotency = Policy(required=True, key_format="uuid")
    queryset = Payment.objects.order_by("pk")
    serializer_class = Slow
    authentication_classes = [SessionAuthentication]
    permission_classes = [IsAuthenticated]
    renderer_classes = [JSONRenderer, BrowsableAPIRenderer]


class Payments(Browsable, generics.ListCreateAPIView):
    pass


class OnePayment(Browsable, generics.RetrieveUpdateDestroyAPIView):
    pass


@pytest.fixture(autouse=True)
def served(serve) -> None:
    seen.clear()
    serve(path("act/", Payments.as_view()), path("act/<int:pk>/", OnePayment.as_view()))


def show(page: Any, form: str) -> None:
    """Open the tab of a form."""
    for tab in page.find_elements("css selector", ".form-switcher a"):
        if tab.get_attribute("href").endswith(form):
            tab.click()
    WebDriverWait(page, WAIT).until(lambda page: page.find_element("css selector", f"{form} button").is_displayed())


def key_field(page: Any, form: str) -> Any:
    return page.find_element("css selector", f"{form} [data-idempotency-header]")


def fill(page: Any, form: str, **fields: str) -> None:
    for name, value in fields.items():
        element = page.find_element("css selector", f"{form} [name={name}]")
        element.clear()
        element.send_keys(value)


def click(page: Any, form: str, times: int = 1, label: str = "") -> None:
    """Clicks as a person makes them, faster than an answer, and the answer to the last."""
    buttons = page.find_elements("css selector", f"{form} button")
    [button] = [each for each in buttons if label in each.text]
    page.execute_script("document.body.dataset.asked = 'yes'")
    clicks = ActionChains(page).move_to_element(button)
    for _ in range(times):
        clicks.click().pause(0.1)
    clicks.perform()
    WebDriverWait(page, WAIT).until(lambda page: not page.find_element("tag name", "body").get_attribute("data-asked"))


def status(page: Any) -> int:
    return int(page.find_element("css selector", ".response-info b").text.split()[1])


POST, RAW = "#post-object-form", "#post-generic-content-form"
PUT_RAW = "#put-generic-content-form"


def test_double_clicks_are_one_effect(visit):
    """Each page has a key of its own, of version 7. The second click is refused or gets the stored answer."""
    keys = set()
    with hearing("executed", "replayed") as heard:
        for number in range(1, 6):
            page = visit("/act/")
            show(page, POST)
            fill(page, POST, amount=str(number))
            keys.add(key_field(page, POST).get_attribute("value"))
            click(page, POST, times=2)
            assert status(page) == 201

    assert sorted(Payment.objects.values_list("amount", flat=True)) == [1, 2, 3, 4, 5]
    assert set(IdempotencyRecord.objects.values_list("key", flat=True)) == keys
    assert all(abs(time_of(key) - time.time()) < 60 for key in keys)
    assert [name for name, _ in heard].count("replayed") > 0
    assert set.union(*seen) == {"amount", "csrfmiddlewaretoken", "reference"}


def test_an_error_is_mended(visit):
    """The form keeps its key; the page of the answer has a new one, and a reload sends nothing again."""
    page = visit("/act/")
    show(page, POST)
    key = key_field(page, POST).get_attribute("value")
    fill(page, POST, amount="much")
    click(page, POST)
    assert (status(page), key_field(page, POST).get_attribute("value")) == (400, key)
    assert not Payment.objects.exists()

    fill(page, POST, amount="5")
    click(page, POST, times=2)
    assert status(page) == 201
    assert key_field(page, POST).get_attribute("value") not in ("", key)
    page.refresh()
    assert Payment.objects.get().amount == 5


def test_a_key_of_the_developers_own(visit):
    """Used again with other data it is refused, and the page says so; an empty one is missing."""
    page = visit("/act/")
    for amount, expected in (("5", 201), ("5", 201), ("6", 422)):
        show(page, POST)
        fill(page, POST, amount=amount)
        field = key_field(page, POST)
        field.clear()
        field.send_keys("8e03978e-40d5-43dd-bc93-6894a57f9324")
        click(page, POST)
        assert status(page) == expected
    assert "key-reused" in page.page_source
    assert Payment.objects.count() == 1

    show(page, POST)
    key_field(page, POST).clear()
    click(page, POST)
    assert status(page) == 400
    assert "key-missing" in page.page_source


def test_raw_data(visit):
    """JSON by POST and PATCH. PUT sends the same field, which its view does not look at."""
    page = visit("/act/")
    show(page, RAW)
    fill(page, RAW, _content=json.dumps({"amount": 5, "reference": "a"}))
    click(page, RAW, times=2)
    assert status(page) == 201
    payment = Payment.objects.get()
    assert seen[0] == {"amount", "reference"}

    for label in ("PATCH", "PUT"):
        page = visit(f"/act/{payment.pk}/")
        show(page, PUT_RAW)
        Select(page.find_element("css selector", f"{PUT_RAW} select")).select_by_value("application/json")
        fill(page, PUT_RAW, _content=json.dumps({"amount": 6}))
        click(page, PUT_RAW, times=2, label=label)
        assert status(page) == 200
    assert IdempotencyRecord.objects.count() == 2
