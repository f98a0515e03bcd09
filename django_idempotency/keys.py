"""
Ready-made values for the option `key`: the ids that senders of webhooks give to their events, and the keys of GraphQL.

Verify a sender's signature first: anybody can write an id. With `required=True` a request without an id is 400
`key-missing`, unless the callable says that it needs none: `NO_KEY_NEEDED`.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from django.http.request import RawPostDataException

from django_idempotency.adapters.attempts import PLACE
from django_idempotency.adapters.body import form_values, has_form, whole_body
from django_idempotency.core.keys import NoKey, parse_key
from django_idempotency.exceptions import KeyInvalid

__all__ = ["NO_KEY_NEEDED", "github", "graphql", "standard_webhooks", "stripe_event"]

# Returned for a request that takes no effect: its handler runs as if it were not protected, even if a key is required.
NO_KEY_NEEDED: Final = NoKey.NEEDED
IN_GRAPHQL = "idempotencyKey"  # the name of the key among the extensions, and among the variables

Key = TypeVar("Key", bound=Callable[[Any], str | NoKey | None])


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


@_found_in("the header Idempotency-Key, the extension idempotencyKey or the variable idempotencyKey")
def graphql(request: Any) -> str | NoKey | None:
    """
    The key of a GraphQL mutation: the header `Idempotency-Key`, the extension `idempotencyKey`, or the variable of that
    name; of a batch, the first. A request without a mutation needs none.

    Source: GraphQL over HTTP, 4 (request), and the GraphQL multipart request specification.
    """
    operations = [*_graphql_operations(getattr(request, "_request", request))]
    if not any(_may_mutate(operation) for operation in operations):
        return NO_KEY_NEEDED
    header = request.headers.get("Idempotency-Key")
    if header is not None:
        try:
            return parse_key(header)
        except KeyInvalid:
            return ""  # which is refused, too
    for place in ("extensions", "variables"):
        for operation in operations:
            found = _as_object(operation.get(place)).get(IN_GRAPHQL)
            if found is not None:
                return found if isinstance(found, str) else ""
    return None


def _graphql_operations(request: Any) -> Iterator[dict[str, Any]]:
    """Each operation that *request* asks for; nothing of a body that cannot be read, which the view refuses."""
    if "query" in request.GET:
        yield request.GET.dict()
    if has_form(request):
        names = ("query", "operationName", "variables", "extensions")
        yield {name: values[0] for name in names if (values := form_values(request, name))}
        bodies = form_values(request, "operations")
    else:
        try:
            bodies = [whole_body(request).decode()]
        except (RawPostDataException, UnicodeDecodeError):
            bodies = []
    if request.content_type == "application/graphql":
        yield from ({"query": body} for body in bodies)
        return
    for body in bodies:
        try:
            parsed = json.loads(body)
        except (RecursionError, ValueError):
            continue
        yield from (each for each in (parsed if isinstance(parsed, list) else [parsed]) if isinstance(each, dict))


def _may_mutate(operation: dict[str, Any]) -> bool:
    """Is *operation* a mutation? A stored document, of which only the name is sent, may be one."""
    text = operation.get("query")
    if not isinstance(text, str) or not text:
        return bool(operation)
    if "mutation" not in text:
        return False
    from graphql import GraphQLError, OperationType, get_operation_ast, parse  # what both libraries are built on

    name = operation.get("operationName")
    try:
        found = get_operation_ast(parse(text), name if isinstance(name, str) and name else None)
    except (GraphQLError, RecursionError):
        return True
    return found is None or found.operation is not OperationType.QUERY


def _as_object(value: object) -> dict[str, Any]:
    """*value*, or what it is as JSON, which a form has; an empty object if it is no object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (RecursionError, ValueError):
            return {}
    return value if isinstance(value, dict) else {}


def _header(request: Any, name: str) -> str | None:
    value: str = request.headers.get(name, "").strip()
    return value or None
