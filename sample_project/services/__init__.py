"""
What card payments need beside Django: a Redis or Valkey, and a gateway.

`python -m sample_project.services manage.py runserver` runs a command of Python with both.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from sample_project import gateway

from . import valkey


@contextmanager
def running(environment: dict[str, str], *, log: TextIO | None = None) -> Iterator[dict[str, str]]:
    """
    *environment* with `REDIS_URL` and `GATEWAY_URL`. Which of them it does not name yet is started, for the block: a
    Valkey from its wheel, which forgets everything when it ends, and the fake gateway, which writes to *log*.

    Raises `RuntimeError` where one cannot be started.
    """
    urls = {name: environment.get(name, "") for name in ("REDIS_URL", "GATEWAY_URL")}
    with ExitStack() as stack:
        if not urls["REDIS_URL"]:
            urls["REDIS_URL"] = stack.enter_context(valkey.running())
        if not urls["GATEWAY_URL"]:
            urls["GATEWAY_URL"] = stack.enter_context(gateway.running(log=log)).url
        yield environment | urls
