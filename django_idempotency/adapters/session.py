"""The session of a request whose work was rolled back."""

from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest


def session_key(request: HttpRequest) -> str | None:
    return getattr(getattr(request, "session", None), "session_key", None)


def restore_session(request: HttpRequest, before: str | None) -> None:
    """
    Let *request* have the session of the key *before* again, if a session that the handler began or ended is undone.

    A session without its row would make Django's middleware replace the handler's answer by a 400 (`UpdateError`).
    """
    session: Any = getattr(request, "session", None)
    key = session_key(request)
    if key == before:
        return
    from django.contrib.sessions.backends.db import SessionStore  # a project without sessions does not come here

    if isinstance(session, SessionStore) and (_has_row(session, before) if key is None else not _has_row(session, key)):
        request.session = type(session)(before)


def _has_row(session: Any, key: str | None) -> bool:
    try:
        return bool(session.model.objects.filter(session_key=key).exists())  # past the cache of `cached_db`
    except DatabaseError:  # the outer transaction is to be rolled back as well
        return False
