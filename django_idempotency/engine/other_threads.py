"""
Warns of a handler that writes in another thread, as by `sync_to_async(..., thread_sensitive=False)`: each thread has a
connection of its own, so that what is written there is not in the handler's transaction.

Seen are the connections that are opened from inside a handler, by code that has its context.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from django_idempotency.core.keys import Identity
from django_idempotency.core.seen import SeenNames
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import running
from django_idempotency.engine.watch import is_harmless

logger = logging.getLogger("django_idempotency")
warned = SeenNames()  # operations


@receiver(connection_created)
def _watch(*, connection: BaseDatabaseWrapper, **kwargs: object) -> None:
    if _handler_elsewhere() is not None and _warn not in connection.execute_wrappers:
        connection.execute_wrappers.append(_warn)


def _handler_elsewhere() -> Identity | None:
    """The identity of the handler of which this is the context, if it has its transaction in another thread."""
    for each in reversed(running()):
        owner = getattr(each.place, "_thread_ident", None)
        if not each.is_over:
            return each.handle.identity if owner not in (None, threading.get_ident()) else None
    return None


def _warn(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    if not is_harmless(sql):
        identity = _handler_elsewhere()
        if identity is not None and warned.is_new(identity.operation):
            logger.warning(
                "%s wrote to database %r in another thread, whose connection is not that of its transaction: the two do"
                " not commit together. Leave thread_sensitive=False out.",
                announcements.name(identity), context["connection"].alias,
            )  # fmt: skip
    return execute(sql, params, many, context)
