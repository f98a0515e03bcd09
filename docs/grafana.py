"""
The picture of the Grafana dashboard in this manual, from a real run: `python -m docs.grafana [SECONDS]`.

The sample project serves a load of several clients under gunicorn, a Prometheus (the program that `PROMETHEUS` names,
or Debian's) scrapes it, and every query of `docs/_static/grafana-dashboard.json` is asked; one without an answer is an
error. Grafana itself is not run: the answers are drawn here, where the dashboard has its panels.
"""

import html
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import uuid
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from docs.screenshots import browser, with_palette
from sample_project import services
from sample_project.demo.client import Request, send
from sample_project.demo.server import Server
from tests import servers

STATIC = Path(__file__).parent / "_static"
CLIENTS = 6
SCRAPED_EVERY = 2  # seconds
RATE_INTERVAL = "20s"
PATIENCE = 60  # seconds
WIDTH, ROW, GAP = 1240, 30, 8  # CSS pixels: of the page, of a unit of height, between panels
COLORS = ("#5794f2", "#73bf69", "#ff9830", "#f2495c", "#b877d9", "#fade2a", "#8ab8ff", "#96d98d")
NAME = f"idempotency_grafana_{os.getpid()}"
CONFIGURATION = """
global: {{scrape_interval: {every}s, scrape_timeout: {every}s}}
scrape_configs: [{{job_name: sample, static_configs: [{{targets: ["{target}"]}}]}}]
"""


def main(seconds: float = 240) -> int:
    dashboard = json.loads((STATIC / "grafana-dashboard.json").read_text())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-grafana-")))
        address = stack.enter_context(served(folder))
        ask = stack.enter_context(prometheus(folder, address))
        begun = time.time()
        load(address, folder, seconds)
        time.sleep(2 * SCRAPED_EVERY)
        answers = [[answer(ask, target, begun) for target in panel["targets"]] for panel in dashboard["panels"]]
        empty = [panel["title"] for panel, found in zip(dashboard["panels"], answers, strict=True) if not all(found)]
        page = folder / "page.html"
        page.write_text(drawn(dashboard, answers))
        with browser() as driver:
            driver.get(f"file://{page}")
            high = driver.execute_script("return document.body.scrollHeight")
            size = {"width": WIDTH, "height": high, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        (STATIC / "grafana.png").write_bytes(with_palette(b64decode(shot["data"])))
    print(*[f"No answer for a query of {title!r}" for title in empty], sep="\n", end="\n" if empty else "")
    return 1 if empty else 0


# --- the run ---


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """The sample project under gunicorn, on a PostgreSQL, with an account to spend from."""
    import psycopg

    with ExitStack() as stack:
        url = servers.postgresql(stack).database_url(NAME)
        with psycopg.connect(url.rpartition("/")[0] + "/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {NAME}")
        stack.callback(servers.drop_databases, url, NAME)
        metrics = folder / "metrics"
        metrics.mkdir()
        environment = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "GATEWAY_URL")}
        environment |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "docs.watched.settings", "LOG_LEVEL": "ERROR"}
        environment |= {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "DEBUG": "0"}
        server = Server(folder, stack.enter_context(services.running(environment)))
        server.manage("migrate", "--verbosity", "0")
        usage = server.manage("seed", "--balance", str(10**9))
        token, account = re.search(r"TOKEN=(\S+)", usage), re.search(r"api/accounts/(\d+)/charges", usage)
        if token is None or account is None:
            raise RuntimeError(usage)
        (folder / "account").write_text(f"{token[1]} {account[1]}")
        yield stack.enter_context(server).address


@contextmanager
def prometheus(folder: Path, address: tuple[str, int]) -> Iterator[Any]:
    """A Prometheus that scrapes the server at *address*; what asks it something."""
    program = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
    if program is None:
        sys.exit("prometheus: not found. Debian: apt-get install prometheus")
    (folder / "prometheus.yml").write_text(
        CONFIGURATION.format(every=SCRAPED_EVERY, target=":".join(map(str, address)))
    )
    port = servers.free_port()
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]

    def ask(path: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{query}") as response:
            return json.load(response)["data"]["result"]

    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    if ask("query", query="up == 1"):
                        break
                except OSError:  # it starts
                    pass
                if time.monotonic() > deadline:
                    raise TimeoutError("Prometheus does not reach the sample project")
                time.sleep(0.5)
            yield ask
        finally:
            process.terminate()


def load(address: tuple[str, int], folder: Path, seconds: float) -> None:
    """Clients, for that long: most lose an answer now and then and repeat, some are impatient, one reuses keys."""
    token, account = (folder / "account").read_text().split()
    begun = time.monotonic()

    def client(number: int) -> None:
        chance = random.Random(number)
        while (passed := time.monotonic() - begun) < seconds:
            is_burst = 0.55 < passed / seconds < 0.65  # a proxy has cut connections, and everybody repeats
            kind = chance.random()
            charge = {"amount": chance.randint(100, 9900), "currency": "EUR", "reference": "order"}
            request = Request(
                path=f"/api/accounts/{account}/charges/", payload=charge, token=token, key=str(uuid.uuid4())
            )
            if kind < 0.02:
                card = charge | {"card": chance.choice(["tok_visa", "tok_visa", "tok_visa", "tok_slow"])}
                path = f"/api/accounts/{account}/card-payments/"
                request = Request(path=path, payload=card, token=token, key=request.key)
            elif kind < 0.05:
                request = Request(path=request.path, payload=charge | {"amount": -1}, token=token, key=request.key)
            if kind > (0.4 if is_burst else 0.97):  # does not wait for the answer
                twins = [threading.Thread(target=attempt, args=(request,)) for _ in range(3)]
                for twin in twins:
                    twin.start()
                for twin in twins:
                    twin.join()
            attempt(request)
            if chance.random() < (0.8 if is_burst else 0.06):
                attempt(request)
            if number == 0 and chance.random() < 0.1:
                attempt(Request(path=request.path, payload=charge | {"amount": 1}, token=token, key=request.key))
            time.sleep(chance.uniform(0.02, 0.25) * (1.4 + math.sin(passed / seconds * 9)))

    def attempt(request: Request) -> None:
        try:
            send(address, request)
        except OSError:  # it is lost, as the other side may be
            pass

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def answer(ask: Any, target: dict[str, Any], begun: float) -> list[tuple[str, list[tuple[float, float]]]]:
    """Each series that Prometheus has for *target*: its name in the legend, its points."""
    now = time.time()
    variables = {"$__rate_interval": RATE_INTERVAL, "$__range": f"{now - begun:.0f}s", "$operation": ".*"}
    expression = target["expr"]
    for name, value in variables.items():
        expression = expression.replace(name, value)
    if target.get("instant"):
        found = [{**each, "values": [each["value"]]} for each in ask("query", query=expression, time=now)]
    else:
        found = ask("query_range", query=expression, start=begun, end=now, step=SCRAPED_EVERY)
    return [
        (
            re.sub(r"\{\{(\w+)\}\}", lambda label, each=each: each["metric"].get(label[1], ""), target["legendFormat"]),
            [(float(moment), float(value)) for moment, value in each["values"] if value != "NaN"],
        )
        for each in found
    ]


# --- the picture ---


def drawn(dashboard: dict[str, Any], answers: list[Any]) -> str:
    """The panels with their *answers*, as a page."""
    parts, bottom = [], 0
    for panel, found in zip(dashboard["panels"], answers, strict=True):
        place = panel["gridPos"]
        wide, high = WIDTH * place["w"] / 24 - GAP, place["h"] * ROW - GAP
        bottom = max(bottom, (place["y"] + place["h"]) * ROW)
        series = [each for of_target in found for each in of_target]
        unit = panel["fieldConfig"]["defaults"]["unit"]
        inside = number(series) if panel["type"] == "stat" else chart(series, unit, wide - 24, high - 76)
        style = f"left:{WIDTH * place['x'] / 24}px;top:{place['y'] * ROW}px;width:{wide}px;height:{high}px"
        parts.append(f'<section style="{style}"><h2>{html.escape(panel["title"])}</h2>{inside}</section>')
    return f"""<!doctype html><meta charset=utf-8><style>
        body {{ margin: 0; height: {bottom}px; background: #f4f5f5; font: 12px sans-serif; color: #24292e }}
        section {{ position: absolute; margin: 4px; background: #fff; border: 1px solid #ddd; border-radius: 3px;
                   box-sizing: border-box; padding: 6px 12px; overflow: hidden }}
        h2 {{ font: 500 13px sans-serif; margin: 2px 0 6px }}
        .number {{ font: 500 38px sans-serif; text-align: center; color: #3871dc }}
        .legend span {{ margin-right: 14px; white-space: nowrap }}
        i {{ display: inline-block; width: 14px; height: 4px; margin-right: 5px; vertical-align: middle }}
        text {{ font: 11px sans-serif; fill: #6e7680 }}
        </style>{"".join(parts)}"""


def number(series: list[Any]) -> str:
    return f'<div class="number">{series[0][1][-1][1]:,.0f}</div>' if series else '<div class="number">-</div>'


def chart(series: list[Any], unit: str, wide: float, high: float) -> str:
    """Lines over time, as SVG, and their legend."""
    points = [point for _, line in series for point in line]
    if not points:
        return "No data"
    first, last = min(moment for moment, _ in points), max(moment for moment, _ in points)
    most = max(value for _, value in points) or 1.0
    left = 56

    def x(moment: float) -> float:
        return left + (moment - first) / (last - first or 1) * (wide - left - 4)

    def y(value: float) -> float:
        return high - 18 - value / most * (high - 26)

    parts = []
    for step in range(5):
        value = most * step / 4
        shown = f"{value:.2g}/s" if unit != "s" else f"{value:.1f} s" if most > 2 else f"{value * 1000:.0f} ms"
        parts.append(f'<line x1="{left}" x2="{wide}" y1="{y(value)}" y2="{y(value)}" stroke="#e4e5e6"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4}" text-anchor="end">{shown}</text>')
        moment = first + (last - first) * step / 4
        anchor = "end" if step == 4 else "middle" if step else "start"
        at = time.strftime("%H:%M:%S", time.gmtime(moment))
        parts.append(f'<text x="{x(moment)}" y="{high - 2}" text-anchor="{anchor}">{at}</text>')
    for (_, line), color in zip(series, COLORS, strict=False):
        path = " ".join(f"{x(moment):.1f},{y(value):.1f}" for moment, value in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>')
    legend = "".join(
        f'<span><i style="background:{color}"></i>{html.escape(name)}</span>'
        for (name, _), color in zip(series, COLORS, strict=False)
    )
    return f'<svg width="{wide}" height="{high}">{"".join(parts)}</svg><div class="legend">{legend}</div>'


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
