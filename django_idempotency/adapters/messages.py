"""
The messages (django.contrib.messages) that a handler adds before it redirects.

They travel in a cookie or in the session of the first answer, and a browser drops that answer if its user clicks twice.
So they are kept in the record, and a replay adds each one that does not wait to be shown already. The storage has no
public way to read them: this module alone uses its `_queued_messages`.
"""

import json
from typing import Any

MESSAGES = ":messages"  # beside the headers of a record; no header of HTTP can have this name


def encode_messages(request: Any) -> str | None:
    """The messages that were added while *request* was handled, as JSON; None if there are none."""
    storage = getattr(request, "_messages", None)
    added = getattr(storage, "_queued_messages", None)
    if not added:
        return None
    from django.contrib.messages.storage.cookie import MessageEncoder  # not imported in a project without messages

    storage._prepare_messages(added)  # type: ignore[union-attr]  # turns lazy texts into strings, as before a response
    return json.dumps(added, cls=MessageEncoder)


def add_messages(request: Any, encoded: str) -> None:
    """Add the messages in *encoded* to *request*, unless an equal one waits to be shown."""
    storage = getattr(request, "_messages", None)
    if storage is None:
        return
    from django.contrib.messages.storage.cookie import MessageDecoder

    for message in json.loads(encoded, cls=MessageDecoder):
        if message not in storage:
            storage.add(message.level, message.message, message.extra_tags)
