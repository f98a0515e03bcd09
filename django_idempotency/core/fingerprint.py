"""Digests that tell requests apart, and one normal form for values that clients write in several ways."""

import json
from collections.abc import Iterable
from decimal import Decimal
from hashlib import sha256
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from django_idempotency.exceptions import PolicyError


def framed(*parts: bytes) -> bytes:
    """Join *parts*, each after its length, so that ("ab", "c") and ("a", "bc") differ."""
    return b"".join([len(part).to_bytes(8) + part for part in parts])


def digest(kind: bytes, *parts: bytes) -> bytes:
    """Hash *parts* to 32 bytes. The same parts of another *kind* have another digest."""
    return sha256(kind + framed(*parts)).digest()


def check_fingerprint(value: object) -> bytes:
    """Return *value*, the result of the option `fingerprint`. Raises `PolicyError` unless it is bytes."""
    if isinstance(value, bytes):
        return value
    raise PolicyError(f"The option 'fingerprint' must return bytes, not a {type(value).__name__}.")


def canonical_json(value: Any, *, allow_nan: bool = True) -> bytes:
    """Write *value* as JSON with sorted keys and no spaces. Raises `TypeError` or `ValueError` if it is not JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=allow_nan)
    return text.encode(errors="surrogatepass")


def exact_json(value: Any) -> bytes:
    """Write *value* as JSON (RFC 8259) that is read back unchanged. Raises `ValueError`, which says why not."""
    try:
        written = canonical_json(value, allow_nan=False)
        if json.loads(written) == value:
            return written
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(str(error)) from error
    raise ValueError("it must be read back unchanged: lists, not tuples; names that are strings")


def parse_json(body: str | bytes) -> Any:
    """
    Parse *body* as JSON, so that 1, 1.0 and 1e0 are the same value (RFC 8785, 3.2.2.3).

    An integer beyond 2**53 stays an exact integer. Raises `ValueError` if *body* is not JSON, or has a fraction that no
    double can hold, because two different fractions would become equal.
    """
    return json.loads(body, parse_int=_parse_integer, parse_float=_parse_real, parse_constant=refuse_constant)


def _parse_integer(text: str) -> int | float:
    number = int(text)
    return float(number) if abs(number) <= 2**53 else number


def _parse_real(text: str) -> float:
    number = float(text)
    try:
        if number in (float("inf"), float("-inf")) or Decimal(text) != Decimal(repr(number)):
            raise ValueError(f"{text} has no exact double")
    except ArithmeticError as error:  # an exponent beyond those of `Decimal`
        raise ValueError(f"{text} has no exact double") from error
    return number + 0.0  # -0 is 0


def refuse_constant(name: str) -> NoReturn:
    """For `parse_constant` of `json.loads`: raise `ValueError` for NaN and Infinity."""
    raise ValueError(f"{name} is not JSON (RFC 8259, 6)")


def without_field(form: bytes, name: bytes) -> bytes:
    """Remove the fields *name* from the urlencoded *form*, and keep every other byte."""
    if name not in form:
        return form
    return b"&".join([field for field in form.split(b"&") if field.partition(b"=")[0] != name])


def without_gzip_times(body: bytes) -> bytes:
    """Remove the time, the compression level and the system from the header of the gzip *body* (RFC 1952, 2.3)."""
    return body[:4] + body[10:] if body.startswith(b"\x1f\x8b") else body


def parse_query(query: str) -> bytes:
    """Encode the fields of a *query* in their order. Two ways to escape a character make no difference."""
    fields = parse_qsl(query, keep_blank_values=True, encoding="latin-1")  # one character for each byte
    return framed(*[part.encode(errors="surrogatepass") for field in fields for part in field])


def without(value: Any, excluded: Iterable[tuple[str, ...]]) -> Any:
    """Copy the JSON *value* without the members at the *excluded* paths, which reach into the items of lists."""
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
