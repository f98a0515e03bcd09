"""The checks of the setting; all others depend on the first."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from django.core.checks import CheckMessage, Error, Info, Warning, register

from django_idempotency import conf, encryption
from django_idempotency.core.observation import OBSERVE
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores import stores

Arguments = ParamSpec("Arguments")


@register
def check_setting(**kwargs: object) -> list[CheckMessage]:
    """E001, E002, E021. No server starts with either: the app raises the same error when Django sets it up."""
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
    try:
        encryption.sealer()
    except PolicyError as error:
        return [
            Error(
                str(error),
                hint=f"Correct {encryption.NAME}, like {{'KEYS': {{'2026-11': '…'}}}}, or leave it out.",
                id="django_idempotency.E021",
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


@register
def check_observing(**kwargs: object) -> list[CheckMessage]:
    """W021, of the project's own mode."""
    if check_setting() or conf.resolved().mode != OBSERVE or conf.counts():
        return []
    return [
        Warning(
            f"{conf.SETTING} has MODE 'observe' and COUNTS False: what ran twice is logged and not counted.",
            hint="Leave COUNTS out of the setting.",
            id="django_idempotency.W021",
        )
    ]


@register(deploy=True)
def check_enforcing(**kwargs: object) -> list[CheckMessage]:
    """I002, only with --deploy: it is meant to be so for a while."""
    if check_setting() or conf.resolved().mode != OBSERVE:
        return []
    return [
        Info(
            f"{conf.SETTING} has MODE 'observe': nothing is protected by it, and duplicates run.",
            hint="When the dashboard shows what you expect, set MODE to 'atomic', or leave it out.",
            id="django_idempotency.I002",
        )
    ]


def needs_setting(check: Callable[Arguments, list[CheckMessage]]) -> Callable[Arguments, list[CheckMessage]]:
    """Make *check* silent if the setting is wrong: E001 or E002 says so, and the rest depends on it."""

    @wraps(check)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> list[CheckMessage]:
        return [] if check_setting() else check(*args, **kwargs)

    return checked
