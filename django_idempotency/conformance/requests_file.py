"""The file that describes the request to send: a JSON object, see docs/how-to/test-any-server.md."""

from __future__ import annotations

import difflib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_idempotency.conformance.wire import Request

UNIQUE = "{{unique}}"
ENVIRONMENT = re.compile(r"\{\{env:(\w+)\}\}")
PATH = re.compile(r"/[\x21-\x7e]*")

TEXT, OBJECT, LIST, FLAG, ANY = "a string", "an object", "a list of strings", "true or false", "any JSON value"
MEMBERS = {
    "method": TEXT,
    "path": TEXT,
    "headers": OBJECT,
    "body": ANY,
    "vary": ANY,
    "required": FLAG,
    "error": ANY,
    "other": OBJECT,
    "effects": OBJECT,
    "documentation": LIST,
}
PARTS = {
    "other": {"headers": OBJECT, "path": TEXT},
    "effects": {"path": TEXT, "pointer": TEXT, "headers": OBJECT},
}
TESTS: Mapping[str, Callable[[Any], bool]] = {
    TEXT: lambda value: isinstance(value, str),
    OBJECT: lambda value: isinstance(value, dict),
    LIST: lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    FLAG: lambda value: isinstance(value, bool),
    ANY: lambda value: True,
}


class FileError(Exception):
    """The file cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """The GET whose answer tells how often the request took effect: a number or a list, at *pointer* (RFC 6901)."""

    path: str
    headers: Mapping[str, str]
    pointer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the file says. `required` is None where it leaves open whether a key is."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any = None
    varied_body: Any = None
    required: bool | None = None
    error_body: Any = None
    other_headers: Mapping[str, str]
    other_path: str | None = None
    effects: Effects | None = None
    documentation: tuple[str, ...] = ()

    def requests(self) -> Requests:
        """The request with a new unique value, and those made from it."""
        return Requests(self, uuid.uuid4().hex)


class Requests:
    """The requests that share one unique value, so that they differ only in what a check is about."""

    def __init__(self, described: Described, unique: str) -> None:
        self._described = described
        self._unique = unique

    @property
    def plain(self) -> Request:
        return self._request(self._described.body)

    @property
    def varied(self) -> Request:
        """With another payload."""
        return self._request(self._described.varied_body)

    @property
    def erroneous(self) -> Request:
        """With the payload whose answer is an error."""
        return self._request(self._described.error_body)

    def _request(self, body: Any) -> Request:
        described = self._described
        filled = fill(body, lambda text: text.replace(UNIQUE, self._unique))
        if filled is None:
            content = b""
        elif isinstance(filled, str):
            content = filled.encode()
        else:
            content = json.dumps(filled).encode()
        return Request(
            method=described.method,
            path=described.path.replace(UNIQUE, self._unique),
            headers={name: value.replace(UNIQUE, self._unique) for name, value in described.headers.items()},
            body=content,
        )


def load(path: Path) -> Described:
    """Read the file at *path*. Raises `FileError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    try:
        return described(json.loads(text))
    except json.JSONDecodeError as error:
        raise FileError(f"{path} is not JSON: {error}") from error
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def described(given: Any) -> Described:
    """What the JSON value *given* describes. Raises `FileError`."""
    if not isinstance(given, dict):
        raise FileError("It must be a JSON object with at least `path`.")
    given = fill(given, from_environment)
    check_members("", given, MEMBERS)
    for name, members in PARTS.items():
        if name in given:
            check_members(f"{name}.", given[name], members)
    check_path("path", given.get("path", ""))
    if "effects" in given:
        check_path("effects.path", given["effects"].get("path", ""))
    if "path" in given.get("other", {}):
        check_path("other.path", given["other"]["path"])
    body = given.get("body")
    headers = texts("headers", given.get("headers", {}))
    if body is not None and not isinstance(body, str) and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = "application/json"
    counting = given.get("effects")
    return Described(
        method=given.get("method", "POST").upper(),
        path=given["path"],
        headers=headers,
        body=body,
        varied_body=vary(body, given.get("vary")),
        required=given.get("required"),
        error_body=given.get("error"),
        other_headers=texts("other.headers", given.get("other", {}).get("headers", {})),
        other_path=given.get("other", {}).get("path"),
        effects=counting
        and Effects(
            path=counting["path"],
            headers=texts("effects.headers", counting["headers"])
            if "headers" in counting
            else {name: value for name, value in headers.items() if name.lower() != "content-type"},
            pointer=counting.get("pointer", ""),
        ),
        documentation=tuple(given.get("documentation", ())),
    )


def check_members(where: str, given: Mapping[str, Any], members: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name not in members:
            near = difflib.get_close_matches(name, members, n=1)
            hint = f"Did you mean `{where}{near[0]}`?" if near else f"Known are {', '.join(members)}."
            raise FileError(f"`{where}{name}` is unknown. {hint}")
        if not TESTS[members[name]](value):
            raise FileError(f"`{where}{name}` must be {members[name]}.")


def check_path(name: str, value: str) -> None:
    if not PATH.fullmatch(value):
        raise FileError(f"`{name}` must be a path that begins with /, in ASCII without spaces.")


def texts(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    if wrong := [member for member, value in given.items() if not isinstance(value, str)]:
        raise FileError(f"`{name}.{wrong[0]}` must be a string.")
    return dict(given)


def from_environment(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise FileError(f"{found[0]} is used, but the environment variable {found[1]} is not set.")
        return os.environ[found[1]]

    return ENVIRONMENT.sub(value, text)


def fill(value: Any, replace: Callable[[str], str]) -> Any:
    """*value* with `replace` applied to each of its strings."""
    match value:
        case str():
            return replace(value)
        case list():
            return [fill(each, replace) for each in value]
        case dict():
            return {name: fill(each, replace) for name, each in value.items()}
    return value


def vary(body: Any, change: Any) -> Any:
    """*body* with other values at some pointers, or another text for a text. None if nothing is to change."""
    if change is None:
        return None
    if isinstance(body, str) or body is None:
        if not isinstance(change, str) or change == body:
            raise FileError("`vary` must be another text, because `body` is not JSON.")
        return change
    if not isinstance(change, dict) or not change:
        raise FileError('`vary` must be an object of JSON pointers and other values, like {"/amount": 2}.')
    varied = deepcopy(body)
    for pointer, value in change.items():
        *parents, last = steps(pointer)
        try:
            holder = varied
            for step in parents:
                holder = member(holder, step)
            if member(holder, last) == value:
                raise FileError(f"`vary` gives {pointer} the value that it has in `body`.")
            holder[int(last) if isinstance(holder, list) else last] = value
        except (LookupError, TypeError, ValueError) as error:
            raise FileError(f"`vary` names {pointer}, which `body` does not have.") from error
    return varied


def steps(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer (RFC 6901). Raises `FileError` for what is none, or names the whole."""
    if not pointer.startswith("/"):
        raise FileError(f"{pointer!r} is not a JSON pointer to a part: it must begin with /.")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def member(holder: Any, step: str) -> Any:
    """One step of a pointer. Raises `LookupError`, `TypeError` or `ValueError` if there is nothing."""
    return holder[int(step)] if isinstance(holder, list) else holder[step]
