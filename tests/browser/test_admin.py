"""The admin's pages in a real browser: nothing fails in it, nothing is cut off, nothing needs a mouse, nothing runs."""

from typing import Any

import pytest
from django.urls import reverse

from django_idempotency.models import IdempotencyRecord
from tests.browser.conftest import NARROW, WIDE
from tests.operations.pages import make_record, make_unsettled, page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.operations.admin_urls"),
]

STEALS = "<script>window.stolen = true</script><img src=x onerror='window.stolen = true'>"
LONG = "k" * 255


def records() -> tuple[IdempotencyRecord, IdempotencyRecord]:
    """A completed record and an unsettled one, with the longest texts that there can be."""
    headers = (("Content-Type", "application/json"), ("Location", "/" + "l" * 2000), ("N" * 200, "v"))
    body = b'{"long": "' + b"x" * 5000 + b'", "list": [1, 2, {"deep": null}]}'
    texts = {"scope": "s" * 255, "operation": "POST " + "o" * 250, "request": f"POST {'h' * 100} {'r' * 100}"}
    return make_record(LONG, headers=headers, body=body, **texts), make_unsettled("u" * 255, **texts)


def overflow(driver: Any) -> int:
    """CSS pixels that the page is wider than its window."""
    return driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_pages_open_whole(visit, look, size, scheme):
    """No error in the console, no page wider than its window, the right colours, whatever is in a row."""
    completed, unsettled = records()
    look(size, scheme)

    for path in (
        page("changelist"),
        page("changelist") + f"?q={LONG}&state=completed",
        page("change", completed),
        page("change", unsettled),
        page("free", completed),
        page("settle", unsettled),
        page("history", completed),
        reverse("admin:index"),
    ):
        driver = visit(path)
        assert driver.find_elements("css selector", "#content h1"), path
        assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == [], path
        assert overflow(driver) <= 0, path
        dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark"), path


def test_a_key_is_freed_without_a_mouse(visit, chromium):
    """Tab reaches the button, the reason and the confirmation; each answers to Enter."""
    from selenium.webdriver.common.keys import Keys

    record = make_record()
    visit(page("change", record))

    def tab_to(text: str) -> Any:
        for _ in range(60):
            chromium.switch_to.active_element.send_keys(Keys.TAB)
            focused = chromium.switch_to.active_element
            if text in [focused.get_attribute(name) for name in ("textContent", "value", "name")]:
                return focused
        raise AssertionError(f"Tab does not reach {text!r}")

    button = tab_to("Free this key")
    outline = chromium.execute_script(
        "const style = getComputedStyle(arguments[0]); return style.outlineStyle + style.textDecorationLine", button
    )
    assert outline != "nonenone", "nobody sees where the focus is"
    button.send_keys(Keys.ENTER)
    tab_to("reason").send_keys("Ticket 17")
    tab_to("Free the key").send_keys(Keys.ENTER)

    assert "The key is free" in chromium.find_element("css selector", ".messagelist .success").text
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/json", "text/html; charset=utf-7"])
def test_a_script_in_a_body_does_not_run(visit, content_type):
    """Nor in a header, nor anywhere else: it is there to be read."""
    record = make_record(
        body=STEALS.encode(), headers=(("Content-Type", content_type), ("X-Evil", STEALS)), scope=STEALS,
        operation=STEALS, request=f"POST {STEALS}", request_id=STEALS,
    )  # fmt: skip

    for name in ("change", "free", "history"):
        driver = visit(page(name, record))
        assert driver.execute_script("return window.stolen") is None
    driver = visit(page("change", record))
    assert STEALS in driver.find_element("css selector", ".idempotency-body").text
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []


def test_a_download_is_not_opened(visit, chromium, live_server):
    """The browser stays where it is: the stored page is never a page of this site."""
    record = make_record(body=STEALS.encode(), headers=(("Content-Type", "text/html"),))
    visit(page("change", record))
    before = chromium.current_url

    chromium.find_element("link text", "Download").click()

    assert chromium.execute_script("return window.stolen") is None
    assert chromium.current_url == before
    assert chromium.find_element("css selector", ".idempotency-body").text == STEALS
