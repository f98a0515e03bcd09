"""A warning for handlers whose answers set cookies, which a replay does not send."""

import logging
from typing import Any

from django.conf import settings
from django.http.response import HttpResponseBase

from django_idempotency.core.seen import SeenNames

logger = logging.getLogger("django_idempotency")

warned = SeenNames()  # operations


def warn_of_cookies(operation: str, request: Any, response: HttpResponseBase) -> None:
    """Log once per process and *operation* that its stored answer came with a cookie or began a session."""
    if (response.cookies or _begins_session(request)) and warned.is_new(operation):
        logger.warning(
            "%s answers with cookies or with a new session, and a replay is sent without them: a client that lost the"
            " first answer is not logged in by the second. Leave views that log in or out unprotected.",
            operation,
        )


def _begins_session(request: Any) -> bool:
    session = getattr(request, "session", None)
    if session is None or not session.modified:
        return False
    # A session that continues has the client's own key; its cookie stays valid.
    return session.session_key is None or session.session_key != request.COOKIES.get(settings.SESSION_COOKIE_NAME)
