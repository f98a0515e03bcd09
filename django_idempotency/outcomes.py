"""Ready-made values for the option `should_store`, for protocols in which status 200 can mean no."""

import json
from collections.abc import Callable
from typing import Any

__all__ = ["graphql", "jsonrpc", "redirects"]


def redirects(response: Any) -> bool:
    """Is *response* a redirect? For forms, which are shown again if they have errors, with status 200."""
    return 300 <= response.status_code < 400 and "Location" in response.headers


def graphql(response: Any) -> bool:
    """
    Is *response* a result of GraphQL without `errors`? Of a batch, each result.

    A mutation that answers with `errors` is rolled back and frees its key, also if a part of its data is there.
    Source: the GraphQL specification, 7.1 (response format).
    """
    return _all(response, lambda result: result.get("data") is not None and not result.get("errors"))


def jsonrpc(response: Any) -> bool:
    """
    Is *response* a result of JSON-RPC, or nothing because notifications alone were sent? Of a batch, each result.

    A call that answers with `error` is rolled back and frees its key. Source: JSON-RPC 2.0, 5.
    """
    if 200 <= response.status_code < 300 and not response.streaming and not response.content:
        return True
    return _all(response, lambda result: "result" in result and result.get("error") is None)


def _all(response: Any, is_done: Callable[[dict[str, Any]], bool]) -> bool:
    """Is the body of *response* one JSON object, or a list of them, and *is_done* true of each?"""
    if not 200 <= response.status_code < 300 or response.streaming:
        return False
    try:
        body = json.loads(response.content)
    except (RecursionError, ValueError):
        return False
    results = body if isinstance(body, list) else [body]
    return bool(results) and all(isinstance(result, dict) and is_done(result) for result in results)
