"""
What an OpenAPI document says of a protected operation: the key's header, the refusals, the replay header, the policy.

`policy_for` finds the policy of an operation, and each other function makes a part of an Operation Object, for OpenAPI
3.0 and 3.1. The description of the key is what the IETF's draft asks a server to publish: how long a key lives, what is
compared, what is stored, whose key it is (draft-ietf-httpapi-idempotency-key-header-07, 2.3 to 2.5).
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.translation import get_language

from django_idempotency.adapters.plain import PROBLEM, is_answer
from django_idempotency.core.keys import MAX_KEY, is_uuid
from django_idempotency.core.observation import OBSERVE
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.progress import PHASED
from django_idempotency.exceptions import (
    BodyIncomplete,
    KeyExpired,
    KeyInvalid,
    KeyMissing,
    KeyReused,
    OutcomeUnknown,
    Refusal,
    RequestInProgress,
    StoreUnavailable,
    TryAgain,
)
from django_idempotency.protection.routes import entries, policy_of
from django_idempotency.stores import stores
from django_idempotency.stores.base import TransactionalStore

__all__ = ["PROBLEM_SCHEMA", "description", "key_parameter", "policy_for", "refusals", "response_headers"]

# RFC 9457, 3.1; no member is required there, and a status may have other bodies than ours.
PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "Problem details (RFC 9457) of a refused idempotency key. Nothing was done.",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Names the kind of problem."},
        "title": {"type": "string"},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What the client can do."},
        "code": {"type": "string", "description": "Names the kind of problem, for programs."},
    },
}
# What `core.keys.parse_key` reads: a string of RFC 9651, or a bare token.
KEY_PATTERN = r'^("([ !#-\[\]-~]|\\["\\])+"|[!#-+.-~-][!-+.-~-]*)$'
PYTHON_ALONE = re.compile(r"\(\?[^:=!<]|\(\?<[^=!]|\\[AZ]|[*+?}]\+")  # what ECMA-262 does not know, or reads otherwise
UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def policy_for(callback: Any, method: str, route: str = "") -> ResolvedPolicy | None:
    """
    The policy under which HTTP's *method* of *callback*, the view of a URL pattern, takes keys. None if it takes none,
    not being protected, or only observed. The end of its *route* tells which pattern is meant if the view has several.

    Raises `PolicyError` for options of the view that cannot be used.
    """
    patterns = _patterns(get_resolver(), get_language())
    known = [each for each in patterns.get(id(callback), ()) if each[1].endswith(route)]
    if known:
        pattern, whole = min(known, key=lambda each: len(each[1]))
        policy = policy_of(callback, whole, str(pattern.name or ""), method, pattern.default_args.values())
    else:  # a view of another URLconf
        policy = policy_of(callback, route, "", method)
    return None if policy is None or policy.mode == OBSERVE else policy


@lru_cache(maxsize=1)
def _patterns(resolver: URLResolver, language: str) -> dict[int, list[tuple[URLPattern, str]]]:
    """The patterns of *resolver*, of ROOT_URLCONF, with their whole routes in *language*, by the id of their view."""
    found: dict[int, list[tuple[URLPattern, str]]] = {}
    for pattern, route in entries():
        found.setdefault(id(pattern.callback), []).append((pattern, route))
    return found


def key_parameter(policy: ResolvedPolicy) -> dict[str, Any] | None:
    """The Parameter Object of the key's header; None if the key is not sent in a header."""
    if policy.key is not None:
        return None
    return {
        "in": "header",
        "name": policy.header,
        "required": policy.required,
        "description": "Names one intended action: a new key for each, and the same key for its retries.\n\n"
        + description(policy),
        "schema": _key_schema(policy),
    }


def _key_schema(policy: ResolvedPolicy) -> dict[str, Any]:
    if policy.key_format is is_uuid:
        return {"type": "string", "format": "uuid"}
    wanted = getattr(policy.key_format, "__self__", None)
    if isinstance(wanted, re.Pattern) and not PYTHON_ALONE.search(wanted.pattern) and not wanted.flags & ~re.UNICODE:
        pattern = f"^(?:{wanted.pattern})$"
    else:
        pattern = KEY_PATTERN
    return {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": pattern}


def description(policy: ResolvedPolicy) -> str:
    """The policy in words, as a list in Markdown."""
    said = {
        "Form": _form(policy),
        "Lifetime": _lifetime(policy),
        "Compared": _compared(policy),
        "Stored": f"{_stored(policy)} {_otherwise(policy)}",
        "Whose": f"{_whose(policy)} {_where(policy)}",
    }
    if policy.docs_url is not None:
        said["More"] = f"<{policy.docs_url}>"
    return "\n".join(f"- {name}: {text}" for name, text in said.items())


def _form(policy: ResolvedPolicy) -> str:
    if policy.key_max_age is not None:
        return f"A UUID of version 7 or a ULID, made at most {span(policy.key_max_age)} ago."
    if policy.key_format is is_uuid:
        return "A UUID."
    text = f"A quoted string or a bare token of 1 to {MAX_KEY} printable ASCII characters."
    return text if policy.key_format is None else f"{text} This API takes only some of them."


def _lifetime(policy: ResolvedPolicy) -> str:
    text = f"The answer is kept for {span(policy.ttl)}."
    if policy.tombstone_ttl is not None:
        text += f" For another {span(policy.tombstone_ttl)} the key is refused."
    return f"{text} Then the key is new again."


def _compared(policy: ResolvedPolicy) -> str:
    if policy.fingerprint is None:
        text = "Method, host, path, query, media type, `If-Match`, `If-Unmodified-Since` and body."
    else:
        text = "What this API takes for the meaning of a request."
    return f"{text} The same key for a request that differs in them is refused."


def _stored(policy: ResolvedPolicy) -> str:
    body = "body" if policy.store_body else "no body"
    if policy.record is not None:
        body = "what is needed to render the body again"
    answers = "2xx, 3xx, 402, 404 and 410" if policy.should_store is None else "those that this API takes for final"
    return f"Status, headers (but cookies) and {body}, of answers that are final: {answers}."


def _otherwise(policy: ResolvedPolicy) -> str:
    """What becomes of the key with an answer that is not final."""
    if policy.mode == PHASED:
        return "After another answer, a retry goes on where the request has stopped."
    if isinstance(stores[policy.store], TransactionalStore):
        return "With another answer nothing was done, and the key is free."
    return "After a refusal the key is free."


def _whose(policy: ResolvedPolicy) -> str:
    if policy.scope is None:
        return "The authenticated user's, else the sent credential's, else that of all who send none."
    return "The caller's."


def _where(policy: ResolvedPolicy) -> str:
    return "It is known at this endpoint alone." if policy.operation is None else "Other endpoints may know it, too."


def refusals(
    policy: ResolvedPolicy, problem: Mapping[str, Any] | None, invalid: int | None
) -> dict[int, dict[str, Any]]:
    """
    The Response Objects of the refusals, by status; none with the option `refuse`, which decides of their statuses.

    *problem* is the schema of their bodies, or None if the project has a form of its own for them. With *invalid* the
    framework refuses a request that is not valid, in another form; None if the document tells of that already.
    """
    if policy.refuse is not None:
        return {}
    by_status: dict[int, list[type[Refusal]]] = {}
    for refusal in _possible(policy):
        by_status.setdefault(refusal.status, []).append(refusal)
    responses = {status: _response(policy, found, problem) for status, found in by_status.items()}
    if invalid is not None:
        responses[invalid]["description"] += "\n- Or the request is not valid."
        if problem is not None:
            # First: generated clients read each body as the first one, and this may be anything.
            responses[invalid]["content"] = {"application/json": {}, **responses[invalid]["content"]}
    return responses


def _possible(policy: ResolvedPolicy) -> Iterator[type[Refusal]]:
    """The refusals that an operation can answer with, but those of broken HTTP (411)."""
    if policy.required:
        yield KeyMissing
    yield KeyInvalid
    if policy.key_max_age is not None or policy.tombstone_ttl is not None:
        yield KeyExpired
    yield from (BodyIncomplete, RequestInProgress, OutcomeUnknown, KeyReused, StoreUnavailable, TryAgain)


def _response(policy: ResolvedPolicy, found: list[type[Refusal]], problem: Mapping[str, Any] | None) -> dict[str, Any]:
    headers = {}
    if any(refusal.retry_after for refusal in found):
        headers["Retry-After"] = {
            "description": "Seconds until the same request may be sent again, if that helps.",
            "schema": {"type": "integer", "minimum": 1},
        }
    if policy.docs_url is not None:
        headers["Link"] = {
            "description": 'The documentation of this API\'s keys (`rel="describedby"`).',
            "schema": {"type": "string"},
        }
    response: dict[str, Any] = {
        "description": "\n".join(f"- `{refusal.code}`: {refusal.title}" for refusal in found),
    }
    if headers:
        response["headers"] = headers
    if problem is not None:
        response["content"] = {PROBLEM: {"schema": dict(problem)}}
    return response


def response_headers(policy: ResolvedPolicy, status: str) -> dict[str, Any]:
    """
    The Header Objects, by name, of a response with *status*, like "201" or "2XX": the mark of a replay, and what the
    options `echo` and `expires_header` add.
    """
    if policy.should_store is None and status.isdecimal():
        is_stored = is_answer(int(status))
    else:
        is_stored = status[0] in "23"
    if not is_stored:
        return {}
    found: dict[str, Any] = {
        policy.replayed_header: {
            "description": "`true` if this is the stored answer to an earlier request with the same key. Else absent.",
            "schema": {"type": "string", "enum": ["true"]},
        }
    }
    if policy.echo:
        found[policy.header] = {"description": "The key that was sent.", "schema": {"type": "string"}}
    if policy.expires_header is not None:
        found[policy.expires_header] = {
            "description": "Until when a retry gets this answer (RFC 9110, 5.6.7).",
            "schema": {"type": "string"},
        }
    return found


def span(seconds: float) -> str:
    """*seconds* in the largest unit of which they are several: "24 hours", "7 days"."""
    for size, unit in UNITS:
        count, rest = divmod(seconds, size)
        if count > 1 and not rest:
            return f"{count:.0f} {unit}s"
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"
