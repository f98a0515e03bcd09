"""The check of the setting, which all other checks depend on."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from django.core.checks import CheckMessage, Error, register

from django_idempotency import conf
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores import stores

Arguments = ParamSpec("Arguments")


@register
def check_setting(**kwargs: object) -> list[CheckMessage]:
    """E001, E002. No server starts with either: the app raises the same error when Django sets it up."""
    try:
        conf.resolved()
        aliases = tuple(conf.stores())
    except PolicyError as error:
        return [
            Error(
                str(error),
                hint=f"Correct {conf.SETTING} in the settings; an option that is left out has its default.",
                id="django_idempotency.E001",
            )
        ]
    messages: list[CheckMessage] = []
    for alias in aliases:
        try:
            stores[alias]
        except PolicyError as error:
            messages.append(
                Error(
                    str(error),
                    hint=f"Correct {conf.SETTING}['STORES'], like {dict(conf.DEFAULT_STORES)!r}.",
                    id="django_idempotency.E002",
                )
            )
    return messages


def needs_setting(check: Callable[Arguments, list[CheckMessage]]) -> Callable[Arguments, list[CheckMessage]]:
    """Make *check* silent if the setting is wrong: E001 or E002 says so, and the rest depends on it."""

    @wraps(check)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> list[CheckMessage]:
        return [] if check_setting() else check(*args, **kwargs)

    return checked
