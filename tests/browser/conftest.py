"""A headless Chromium, and somebody who is logged in to the admin with it."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from tests.app.serving import gate, serve

__all__ = ["gate", "serve"]

PROGRAMS = ("chromium", "chromedriver")
WAIT = 10  # seconds, for what comes at once unless a test fails
WIDE, NARROW = (1240, 1000), (390, 844)  # CSS pixels


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The driver of a browser. Where there is none its tests are skipped, and fail if REQUIRE_SERVERS is set."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)}: not found. Debian: apt-get install chromium chromium-driver"
        if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # A container has neither a user's namespaces nor much shared memory.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(WAIT)
    driver.implicitly_wait(WAIT)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def look(chromium) -> Callable[..., None]:
    """Choose the window's size and the colour scheme that its user prefers."""

    def look(size: tuple[int, int] = WIDE, scheme: str = "light") -> None:
        width, height = size
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    look()
    return look


@pytest.fixture
def csrf(live_server, settings) -> Iterator[None]:
    """Check CSRF tokens, as projects do. The server lives longer than a test, and has loaded its middleware."""

    def load(middleware: list[str]) -> None:
        settings.MIDDLEWARE = middleware
        handler = live_server.thread.httpd.get_app()
        while handler is not None:  # that of static files has that of media files, which has Django's own
            handler.load_middleware()
            handler = getattr(handler, "application", None)

    before = settings.MIDDLEWARE
    load([*before[:2], "django.middleware.csrf.CsrfViewMiddleware", *before[2:]])
    yield
    load(before)


@pytest.fixture
def visit(chromium, look, live_server, admin_user) -> Callable[[str], Any]:
    """Go to a path as a superuser, and get the driver. The browser's log is then that of this page."""
    client = Client()
    client.force_login(admin_user)
    chromium.get(f"{live_server.url}/static/django_idempotency/admin.css")  # cookies are set where one is
    chromium.delete_all_cookies()
    chromium.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})

    def visit(path: str) -> Any:
        chromium.get_log("browser")  # what was said before is dropped
        chromium.get(f"{live_server.url}{path}")
        return chromium

    return visit
