"""
Pay at the sample project through a proxy that loses requests and answers: `python -m tests.client.payments 1000`.

Some payments are made by two clients at once, with the key that a jar gives to both. Prints what was lost, and whether
each payment is in the server's database once, as its clients were told. `DATABASE_URL` names a database of its own.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import requests

from django_idempotency.client import CallPolicy, KeyJar
from django_idempotency.client.httpx import AsyncIdempotentTransport, IdempotentTransport
from django_idempotency.client.requests import IdempotentAdapter
from sample_project.demo.server import Server
from tests.client.lossy import WAYS, LossyProxy

SHARE = 0.25  # of the exchanges that are lost
CLIENTS = 4  # at once, of each kind
TIMEOUT = 2.0  # seconds for one attempt
TWICE = 5  # each fifth payment is made by two clients at once
POLICY = CallPolicy(longest_wait=timedelta(seconds=1))


@dataclass(slots=True)
class Outcome:
    """Of each payment's reference: what its clients were told, and what is in the database."""

    told: dict[str, list[int | str]] = field(default_factory=dict)  # the payment's id, or the name of an error
    made: dict[str, list[int]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def doubled(self) -> list[str]:
        return [reference for reference, ids in self.made.items() if len(ids) > 1]

    @property
    def given_up(self) -> list[str]:
        """Those whose client did not get the id of the payment that was made."""
        return [reference for reference, told in self.told.items() if set(told) != set(self.made.get(reference, []))]


@dataclass(slots=True)
class Shop:
    """The sample project under gunicorn, with an account to pay from."""

    server: Server
    path: str
    headers: dict[str, str]

    def made(self) -> dict[str, list[int]]:
        """The charges in the database, by reference."""
        code = (
            "import json; from sample_project.payments.models import Charge;"
            "print('MADE', json.dumps([*Charge.objects.values_list('reference', 'pk')]))"
        )
        rows = json.loads(self.server.manage("shell", "-c", code).partition("MADE ")[2])
        found: dict[str, list[int]] = {}
        for reference, pk in rows:
            found.setdefault(reference, []).append(pk)
        return found


@contextmanager
def shop(folder: Path, database_url: str | None = None) -> Iterator[Shop]:
    """The sample project, on a new SQLite file in *folder* unless a database is named."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "sample_project.settings",
        "DATABASE_URL": database_url or f"sqlite:///{folder / 'shop.sqlite3'}",
        "DEBUG": "0",
        "LOG_LEVEL": "ERROR",
    }
    server = Server(folder, environment)
    server.manage("migrate", "--verbosity", "0")
    seeded = server.manage("seed", "--username", f"payer-{uuid.uuid4().hex[:8]}", "--email", "")
    token = re.search(r"TOKEN=(\w+)", seeded)[1]
    path = re.search(r"(/api/accounts/\d+/charges/)", seeded)[1]
    with server:
        yield Shop(server, path, {"Authorization": f"Token {token}"})


def pay(count: int, folder: Path, database_url: str | None = None) -> Outcome:
    """Make *count* payments, a third of them with each library."""
    outcome = Outcome()
    jar = KeyJar(folder / "keys")
    references = [f"order {number}" for number in range(count)]
    with shop(folder, database_url) as api, closing(LossyProxy(*api.server.address, SHARE)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}{api.path}"

        def request(reference: str, *, shared: bool) -> dict[str, Any]:
            headers = {**api.headers, **({"Idempotency-Key": jar.key(reference)} if shared else {})}
            return {"json": {"amount": 1, "currency": "EUR", "reference": reference}, "headers": headers}

        def note(reference: str, response: Any) -> None:
            told = response.json()["id"] if response.status_code == 201 else f"{response.status_code} {response.text}"
            outcome.told.setdefault(reference, []).append(told)

        def attempts(chosen: list[str]) -> list[tuple[str, bool]]:
            found = []
            for number, reference in enumerate(chosen):
                found += [(reference, True)] * 2 if number % TWICE == 0 else [(reference, False)]
            return found

        def by_threads(client: Any, chosen: list[str]) -> None:
            def one(item: tuple[str, bool]) -> None:
                reference, shared = item
                try:
                    note(reference, client.post(url, timeout=TIMEOUT, **request(reference, shared=shared)))
                except (httpx.HTTPError, requests.RequestException) as error:
                    outcome.told.setdefault(reference, []).append(repr(error))

            with client, ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(one, attempts(chosen)))

        async def by_tasks(chosen: list[str]) -> None:
            limit = asyncio.Semaphore(CLIENTS)

            async def one(client: httpx.AsyncClient, reference: str, shared: bool) -> None:
                async with limit:
                    try:
                        note(reference, await client.post(url, **request(reference, shared=shared)))
                    except httpx.HTTPError as error:
                        outcome.told.setdefault(reference, []).append(repr(error))

            async with (
                httpx.AsyncClient(transport=AsyncIdempotentTransport(policy=POLICY), timeout=TIMEOUT) as client,
                asyncio.TaskGroup() as tasks,
            ):
                for reference, shared in attempts(chosen):
                    tasks.create_task(one(client, reference, shared))

        session = requests.Session()
        session.mount("http://", IdempotentAdapter(policy=POLICY))
        with ThreadPoolExecutor(3) as kinds:
            running = [
                kinds.submit(by_threads, httpx.Client(transport=IdempotentTransport(policy=POLICY)), references[::3]),
                kinds.submit(by_threads, session, references[1::3]),
                kinds.submit(lambda: asyncio.run(by_tasks(references[2::3]))),
            ]
            for each in running:
                each.result()
        outcome.lost = proxy.lost
        outcome.made = api.made()
    return outcome


def main(count: int) -> int:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="payments-") as folder:
        outcome = pay(count, Path(folder), os.environ.get("DATABASE_URL"))
    lost = ", ".join(f"{way}: {outcome.lost[way]}" for way in WAYS)
    lines = [
        f"{len(outcome.made)} payments of {count} in {time.monotonic() - begun:.0f} s. Lost: {lost}.",
        f"Doubled: {len(outcome.doubled)}. Given up wrongly: {len(outcome.given_up)}.",
        *(f"  {each}: told {outcome.told[each]}, made {outcome.made.get(each)}" for each in outcome.given_up),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if outcome.doubled or outcome.given_up or len(outcome.made) != count else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
