"""An answer that an operator writes in the place of a handler whose own answer is not known."""

import json
import re
from http import HTTPStatus

from django_idempotency.core.fingerprint import refuse_constant
from django_idempotency.core.record import CONTENT_LENGTH, CompletionRecord

LOWEST, HIGHEST = 200, 599  # statuses of a final answer (RFC 9110, 15)
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
    """An answer that no handler could have given. *part* is the wrong one: `status`, `content_type` or `body`."""

    def __init__(self, part: str, message: str) -> None:
        self.part = part
        super().__init__(message)


def operator_record(
    status: int, content_type: str, body: bytes, *, max_body: int, is_event: bool = False
) -> CompletionRecord:
    """
    Make the record of an answer of *status* with *body*, which has at most *max_body* bytes.

    The body must be JSON if *content_type* says so. For an event (`@once`) it is the function's result, always JSON.

    Raises `AnswerError` if no handler could have given this answer.
    """
    if not LOWEST <= status <= HIGHEST:
        raise AnswerError("status", f"The status of an answer is a number from {LOWEST} to {HIGHEST}.")
    if not body:
        if is_event:
            raise AnswerError("body", "The result of an event is JSON: write null if the function returns None.")
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
            json.loads(body.decode(), parse_constant=refuse_constant)
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
        raise AnswerError("content_type", "The body is written in UTF-8: leave the charset out, or name UTF-8.")
    return found["type"]


def reason_phrase(status: int) -> str:
    """Return HTTP's reason phrase for *status*, or an empty string for a status that HTTP does not define."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
