"""The former names of an operation: what a request would have been before its route was renamed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from django.http import HttpRequest
from django.urls.converters import get_converters
from django.utils.regex_helper import normalize

_NAMED = re.compile(r"<(?:(?P<converter>[^>:]+):)?(?P<name>\w+)>")  # as `path()` has it
_FILLED = re.compile(r"%\((?P<name>\w+)\)s")  # as `normalize` returns it


@lru_cache(maxsize=1024)
def template(route: str) -> tuple[str, dict[str, str]]:
    """
    *route* with `%(name)s` in the place of each parameter, and their converters; an empty name for none.

    Raises `ValueError` for a regular expression that does not say what it matches, as for `reverse()`.
    """
    if "(?P<" not in route and "^" not in route:
        names = {found["name"]: found["converter"] or "" for found in _NAMED.finditer(route)}
        return _NAMED.sub(lambda found: f"%({found['name']})s", route), names
    # A part before the regular expression may come from `path()`.
    pattern = re.sub(r"(?<!\?P)" + _NAMED.pattern, lambda found: f"(?P<{found['name']}>.)", route)
    try:
        forms = normalize(pattern)
    except (NotImplementedError, ValueError, StopIteration) as error:
        raise ValueError(str(error)) from error
    text, names_of_form = max(forms, key=lambda form: len(form[1]))
    return text, dict.fromkeys(names_of_form, "")


def former_request(alias: str, request: HttpRequest) -> tuple[str, str] | None:
    """
    The method and the path that *request* would have had for the operation *alias*, if that is a method and a route
    whose parameters today's route has too; else None.
    """
    method, _, route = alias.partition(" ")
    match = request.resolver_match
    if not route or match is None:
        return None
    try:
        text, names = template(route)
        converters = get_converters()
        values = {
            name: converters[converter].to_url(match.kwargs[name]) if converter else str(match.kwargs[name])
            for name, converter in names.items()
        }
    except (KeyError, ValueError):
        return None
    prefix = request.path.removesuffix(request.path_info.lstrip("/"))
    return method, prefix + _FILLED.sub(lambda found: values[found["name"]], text)


@contextmanager
def seen_as(request: HttpRequest, former: tuple[str, str] | None) -> Iterator[None]:
    """Let *request* have the method and the path of *former*, for code that reads them."""
    if former is None:
        yield
        return
    today = request.method, request.path, request.path_info
    method, path = former
    request.method, request.path = method, path
    request.path_info = "/" + path.removeprefix(today[1].removesuffix(today[2].lstrip("/")))
    try:
        yield
    finally:
        request.method, request.path, request.path_info = today
