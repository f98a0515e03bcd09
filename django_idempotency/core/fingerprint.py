"""Digests over several parts, framed so that no two different requests give the same bytes to hash."""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any


def framed(*parts: bytes) -> bytes:
    """*parts* with their lengths before them: ("ab", "c") and ("a", "bc") differ."""
    return b"".join([len(part).to_bytes(8) + part for part in parts])


def digest(kind: bytes, *parts: bytes) -> bytes:
    """32 bytes that stand for *parts*, apart from those of every other *kind*."""
    return sha256(kind + framed(*parts)).digest()


def canonical_json(value: Any) -> bytes:
    """*value* as JSON in one spelling: keys sorted, no space. Raises `TypeError` or `ValueError` if it is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")


def without(value: Any, excluded: Iterable[tuple[str, ...]]) -> Any:
    """A copy of the JSON *value* without the members at the *excluded* paths; lists on the way are entered."""
    for path in excluded:
        value = _without_one(value, path)
    return value


def _without_one(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_without_one(item, path) for item in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    name, *rest = path
    if rest:
        return {**value, name: _without_one(value[name], tuple(rest))}
    return {key: item for key, item in value.items() if key != name}
