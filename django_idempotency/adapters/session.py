"""The session of a request whose work was rolled back."""

from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest


def session_key(request: HttpRequest) -> str | None:
    return getattr(getattr(request, "session", None), "session_key", None)


def restore_session(request: HttpRequest, before: str | None) -> None:
    """
    Give *request* the session of the key *before* again, if the rollback undid the session that the handler made.

    A session without its row would make Django's middleware replace the handler's answer by a 400 (`UpdateError`).
    """
    session: Any = getattr(request, "session", None)
    key = session_key(request)
    if key == before:
        return
    from django.contrib.sessions.backends.db import SessionStore  # not imported in a project without sessions

    if isinstance(session, SessionStore) and (_has_row(session, before) if key is None else not _has_row(session, key)):
        request.session = type(session)(before)


def _has_row(session: Any, key: str | None) -> bool:
    try:
        return bool(session.model.objects.filter(session_key=key).exists())  # past the cache of `cached_db`
    except DatabaseError:  # the outer transaction is to be rolled back as well
        return False
