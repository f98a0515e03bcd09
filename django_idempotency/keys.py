"""
Ready-made values for the option `key`: the ids that senders of webhooks give to their events.

Verify the sender's signature first: anybody can write an id. With `required=True` a request without an id is 400
`key-missing`.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from django_idempotency.adapters.attempts import PLACE
from django_idempotency.adapters.body import whole_body

__all__ = ["github", "standard_webhooks", "stripe_event"]

Key = TypeVar("Key", bound=Callable[[Any], str | None])


def _found_in(place: str) -> Callable[[Key], Key]:
    """Let the refusal of a request without a key say that it is missing in *place*."""

    def describe(key: Key) -> Key:
        setattr(key, PLACE, place)
        return key

    return describe


@_found_in("the header webhook-id")
def standard_webhooks(request: Any) -> str | None:
    """The id of a message of Standard Webhooks (standardwebhooks.com): the header `webhook-id`."""
    return _header(request, "webhook-id")


@_found_in("the header X-GitHub-Delivery")
def github(request: Any) -> str | None:
    """The id of a delivery of GitHub, which a redelivery keeps: the header `X-GitHub-Delivery`."""
    return _header(request, "X-GitHub-Delivery")


@_found_in('the member "id" of its JSON body')
def stripe_event(request: Any) -> str | None:
    """The id of an event of Stripe: the member `id` of the JSON body."""
    try:
        event = json.loads(whole_body(getattr(request, "_request", request)))  # DRF's wraps Django's
    except (ValueError, RecursionError):
        return None
    found = event.get("id") if isinstance(event, dict) else None
    return found if isinstance(found, str) and found else None


def _header(request: Any, name: str) -> str | None:
    value: str = request.headers.get(name, "").strip()
    return value or None
