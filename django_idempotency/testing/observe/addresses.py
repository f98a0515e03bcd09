"""Is a connection one to the project's own databases and caches, or to a foreign server?"""

import socket
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from django.conf import settings

from django_idempotency.testing.observe.tracer import frames

DEFAULT_PORTS = {"redis": 6379, "rediss": 6379}
# A connection that one of these opens is to the project's own database or cache.
LAYERS = ("django.db.backends.", "django.core.cache.", "django_redis.", "django_idempotency.stores.")
# Those of their functions that call the project's code.
HANDING_ON = ("get_or_set", "on_commit", "run_and_clear_commit_hooks")


def is_projects_own(host: str, port: str) -> bool:
    """
    Does a connection to *host* and *port* belong to a database or cache of the settings?

    The frames of the call show who opens it; addresses of caches belong to the project too.
    """
    return is_a_layers_own() or (host, port) in _resolved(tuple(_cache_locations()))


def is_a_layers_own() -> bool:
    """Is this called by one of the layers for its own work?"""
    for frame in frames():
        if f"{frame.f_globals.get('__name__', '')}.".startswith(LAYERS):
            return frame.f_code.co_name not in HANDING_ON
    return False


def _cache_locations() -> Iterator[tuple[str, str]]:
    for cache in settings.CACHES.values():
        locations = cache.get("LOCATION") or ()
        for location in [locations] if isinstance(locations, str) else locations:
            for each in str(location).replace(",", ";").split(";"):
                parts = urlsplit(each if "://" in each else f"//{each}")
                try:
                    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
                except ValueError:
                    continue  # a path of Windows, or a table's name with a colon
                if parts.hostname and port:
                    yield parts.hostname, str(port)


@lru_cache(maxsize=8)
def _resolved(locations: tuple[tuple[str, str], ...]) -> frozenset[tuple[str, str]]:
    """*locations*, and the addresses that they resolve to."""
    found = set(locations)
    for host, port in locations:
        try:
            found |= {(str(info[4][0]), port) for info in socket.getaddrinfo(host, int(port))}
        except OSError:
            pass  # the name itself has to do
    return frozenset(found)
