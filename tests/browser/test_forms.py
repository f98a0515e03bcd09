"""Forms with a key in a real browser: what people do to them, and the pages that they get."""

import time
from datetime import timedelta
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

from django_idempotency import idempotent
from django_idempotency.core.keys import KEY_FIELD
from tests.app.models import Payment
from tests.app.serving import hearing
from tests.browser.conftest import NARROW, WAIT, WIDE
from tests.forms import site
from tests.forms.conftest import amounts

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.forms.site"),
    pytest.mark.usefixtures("csrf"),
]

BUTTON = "[name=how], [name=_save]"
FIRST = """
const form = document.querySelector("form");
const fields = [...new FormData(form, form.querySelector("button"))];
const sent = fields.map(([name, value]) => [name, value.replace(/\\r?\\n/g, "\\r\\n")]);
fetch(location.href, {method: "POST", body: new URLSearchParams(sent)});
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


def fill(page: Any, **fields: str) -> None:
    for name, value in fields.items():
        element = page.find_element("name", name)
        element.clear()
        element.send_keys(value)


def press(page: Any) -> None:
    page.find_element("css selector", BUTTON).click()


def double_click(page: Any) -> None:
    """Two clicks as a person makes them, faster than an answer."""
    button = page.find_element("css selector", BUTTON)
    ActionChains(page).move_to_element(button).click().pause(0.1).click().perform()


def wait_for(page: Any, path: str) -> None:
    WebDriverWait(page, WAIT).until(lambda page: path in page.current_url)


def messages(page: Any) -> list[str]:
    return [each.text for each in page.find_elements("css selector", ".message, .messagelist li")]


def key_of(page: Any) -> str:
    return page.find_element("name", KEY_FIELD).get_attribute("value")


@pytest.fixture
def slow(monkeypatch) -> None:
    """A form takes long enough for a second click."""
    save = Payment.save

    def slowly(self: Any, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.5)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Payment, "save", slowly)


def test_ten_double_clicks_make_ten_payments(visit, slow):
    """The browser shows the second answer, which is the first one's page, with its message, once."""
    with hearing("executed", "replayed") as heard:
        for number in range(1, 11):
            page = visit("/pay/")
            fill(page, amount=str(number), reference="two\nlines")
            double_click(page)
            wait_for(page, "/done/")
            assert messages(page) == [f"Payment of {number}"]
    assert amounts() == [*range(1, 11)]
    names = [name for name, _ in heard]
    assert names.count("executed") == 10
    assert names.count("replayed") > 0


def test_reload_and_the_back_button(visit):
    """The form that the back button shows is the one that was sent: it leads to the same page, or is refused."""
    page = visit("/pay/")
    key = key_of(page)
    fill(page, amount="5", reference="a")
    press(page)
    wait_for(page, "/done/")
    page.refresh()
    assert amounts() == [5]

    page.back()
    assert key_of(page) == key
    press(page)
    wait_for(page, "/done/")
    assert amounts() == [5]
    assert messages(page) == ["Payment of 5"]

    page.back()
    fill(page, amount="6")
    press(page)
    assert page.find_element("tag name", "h1").text == "This form was already used"
    page.find_element("link text", "Open the form again").click()
    assert key_of(page) != key
    fill(page, amount="6", reference="a")
    press(page)
    wait_for(page, "/done/")
    assert amounts() == [5, 6]


def test_two_tabs_are_two_forms(visit):
    """Each has its own key. One that is sent again makes no third payment."""
    page = visit("/pay/")
    tabs = [page.current_window_handle]
    page.switch_to.new_window("tab")
    tabs.append(page.current_window_handle)
    try:
        visit("/pay/")
        for tab in tabs:
            page.switch_to.window(tab)
            fill(page, amount="5", reference="a")
        for tab in (*tabs, *tabs):
            page.switch_to.window(tab)
            if "/done/" in page.current_url:
                page.back()
            press(page)
            wait_for(page, "/done/")
    finally:
        page.switch_to.window(tabs[1])
        page.close()
        page.switch_to.window(tabs[0])
    assert amounts() == [5, 5]


def test_errors_are_mended(visit, slow):
    """The form that is shown again has its key. A double click and a reload of it change nothing."""
    page = visit("/pay/")
    key = key_of(page)
    fill(page, amount="0", reference="a")
    double_click(page)
    assert "More than nothing." in page.page_source
    page.refresh()  # sends it again
    assert "More than nothing." in page.page_source
    assert (key_of(page), amounts()) == (key, [])

    fill(page, amount="5")
    double_click(page)
    wait_for(page, "/done/")
    assert amounts() == [5]


def test_the_admin(visit, slow):
    """Add, with a double click; change, with another; the message is there once."""
    page = visit("/admin/app/payment/add/")
    for amount in ("5", "6"):
        fill(page, amount=amount, reference="a")
        double_click(page)
        WebDriverWait(page, WAIT).until(lambda page: page.current_url.endswith("/admin/app/payment/"))
        assert len(messages(page)) == 1
        assert amounts() == [int(amount)]
        page.find_element("css selector", "#result_list tbody th a").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_of_a_form_in_flight_sends_it_again(visit, look, serve, settings, gate, size, scheme):
    """By itself, until the result is there."""
    # In SQLite a duplicate would wait for the database.
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}

    def handler(request: Any) -> Any:
        if request.method == "POST":
            gate.wait()
        return site.pay(request)

    view = idempotent(store="memory", wait_timeout=timedelta(milliseconds=50))(handler)
    serve(view, *site.urlpatterns)
    look(size, scheme)
    page = visit("/act/?q=1")
    fill(page, amount="5", reference="a\n  <\"'&amp;> ü\n")
    page.execute_script(FIRST)
    gate.reached()
    press(page)

    assert page.find_element("tag name", "h1").text == "Your form is being processed"
    assert page.execute_script(OVERFLOW) == 0
    gate.open()
    wait_for(page, "/done/")
    assert amounts() == [5]
