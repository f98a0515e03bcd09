"""The dashboard in a real browser: nothing pushes the page apart, nothing is hidden, nothing runs."""

import pytest
from django.urls import reverse
from django.utils import timezone

from django_idempotency.models import DecisionCount, StorageSample
from django_idempotency.operations.counts import hour_of
from tests.browser.conftest import NARROW, WIDE

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.operations.admin_urls"),
]

COVERED = """
const texts = [...document.querySelectorAll("svg.columns text")].map(text => [text, text.getBoundingClientRect()]);
return texts.filter(([text, box]) => texts.some(([other, its]) => other !== text
    && box.left < its.right && its.left < box.right && box.top < its.bottom && its.top < box.bottom))
    .map(([text]) => text.textContent);
"""
COLOURS = """
return [...document.querySelectorAll("svg.columns rect:not(.space)")].map(bar => getComputedStyle(bar).fill);
"""
LINE = """
const line = document.querySelector("svg.columns path.line");
const [box, plot] = [line, line.closest("svg.columns")].map(each => each.getBoundingClientRect());
return [getComputedStyle(line).stroke, plot.left <= box.left && box.right <= plot.right && box.width > plot.width / 2];
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def counts():
    """A month of two operations, one of them with a name that is as long as names are."""
    now = hour_of(timezone.now().timestamp())
    DecisionCount.objects.bulk_create(
        DecisionCount(hour=now - age, operation=operation, executions=123_456, replays=30, conflicts=8, mismatches=2)
        for age in range(24 * 30)
        for operation in ("POST payments/", "POST " + "x" * 250)
    )
    StorageSample.objects.bulk_create(
        StorageSample(hour=now - age, records=123_456_789, size=98_765_432_100) for age in range(0, 24 * 30, 5)
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_period_fits_the_window(counts, visit, look, size, scheme):
    """No page wider than its window, no label upon another, no bar in the colour of the ground, no word in the log."""
    look(size, scheme)
    for period in ("24h", "7d", "30d"):
        page = visit(f"{reverse('admin:django_idempotency_idempotencyrecord_dashboard')}?period={period}")
        said = [entry["message"] for entry in page.get_log("browser") if "favicon" not in entry["message"]]
        ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        colours = set(page.execute_script(COLOURS))
        stroke, is_within = page.execute_script(LINE)

        assert page.execute_script(OVERFLOW) == 0
        assert page.execute_script(COVERED) == []
        assert len(colours) == 4
        assert ground not in colours | {stroke}
        assert is_within
        assert said == []


def test_a_link_shows_one_operation_alone(counts, visit):
    """By its name, and back."""
    from selenium.webdriver.common.by import By

    page = visit(reverse("admin:django_idempotency_idempotencyrecord_dashboard"))
    page.find_element(By.LINK_TEXT, "POST payments/").click()
    assert len(page.find_elements(By.CSS_SELECTOR, "#operations + .results tbody tr")) == 1
    page.find_element(By.LINK_TEXT, "Show all operations").click()
    assert len(page.find_elements(By.CSS_SELECTOR, "#operations + .results tbody tr")) == 2
