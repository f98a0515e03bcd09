"""An answer that a person writes in a handler's place, for an execution whose own is not known."""

import json
import re
from http import HTTPStatus
from typing import NoReturn

from django_idempotency.core.record import CONTENT_LENGTH, CompletionRecord

LOWEST, HIGHEST = 200, 599  # statuses of an answer that is the last word (RFC 9110, 15)
BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})
JSON = "application/json"

# RFC 9110, 8.3.1: type, subtype, and parameters whose values are tokens or quoted.
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - HTTP's word
_MEDIA_TYPE = re.compile(
    rf"(?P<type>{_TOKEN}/{_TOKEN})(?P<parameters>(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|\"[ !#-\[\]-~]*\"))*)"
)
_CHARSET = re.compile(r";[ \t]*charset=\"?(?P<charset>[^;\"]*)", re.IGNORECASE)
_JSON = re.compile(r".+/(.+\+)?json", re.IGNORECASE)


class AnswerError(ValueError):
    """What is wrong with an answer, in words. *part* is `status`, `content_type` or `body`."""

    def __init__(self, part: str, message: str) -> None:
        self.part = part
        super().__init__(message)


def written(status: int, content_type: str, body: bytes, *, max_body: int, is_event: bool = False) -> CompletionRecord:
    """
    The record of an answer of *status* with *body*, which is JSON where *content_type* says so.

    *max_body* is the largest body in bytes. Of an event (`@once`) the body is the result of the function: JSON.

    Raises `AnswerError` for what no handler could have answered.
    """
    if not LOWEST <= status <= HIGHEST:
        raise AnswerError("status", f"The status of an answer is a number from {LOWEST} to {HIGHEST}.")
    if not body:
        if is_event:
            raise AnswerError("body", "The result of an event is JSON: write null where the function returns None.")
        return CompletionRecord(status=status, reason=reason_phrase(status))
    if status in BODILESS:
        raise AnswerError("body", f"An answer of status {status} has no body.")
    if len(body) > max_body:
        raise AnswerError("body", f"The body has {len(body)} bytes, and {max_body} are allowed.")
    media_type = _media_type(content_type)
    if is_event and media_type.lower() != JSON:
        raise AnswerError("content_type", f"The result of an event is JSON: {JSON}.")
    if _JSON.fullmatch(media_type):
        try:
            json.loads(body.decode(), parse_constant=_refuse_constant)
        except (RecursionError, ValueError) as error:
            raise AnswerError("body", f"The body is not JSON, as its content type says: {error}.") from error
    headers = (("Content-Type", content_type), (CONTENT_LENGTH.title(), None))
    return CompletionRecord(status=status, reason=reason_phrase(status), headers=headers, body=body)


def _media_type(content_type: str) -> str:
    found = _MEDIA_TYPE.fullmatch(content_type)
    if found is None:
        raise AnswerError("content_type", f"A body needs a content type, like {JSON}.")
    charset = _CHARSET.search(found["parameters"])
    if charset and charset["charset"].lower() not in ("utf-8", "utf8"):
        raise AnswerError("content_type", "The body is written in UTF-8: leave the charset out, or name that.")
    return found["type"]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is Python's, and not JSON's")


def reason_phrase(status: int) -> str:
    """HTTP's reason phrase for *status*; empty for a status that it does not know."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
