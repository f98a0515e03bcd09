"""The checks of the functions of `@once` that are imported by now: no URLconf leads to them."""

from django.core.checks import CheckMessage, Error, register

from django_idempotency import conf
from django_idempotency.checks.late import check_late
from django_idempotency.checks.phases import check_store
from django_idempotency.checks.settings import needs_setting
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.functions import protected_functions


@register
@needs_setting
def check_functions(**kwargs: object) -> list[CheckMessage]:
    """E003, E011, E017, E018, W019."""
    messages: list[CheckMessage] = []
    by_operation: dict[str, list[str]] = {}
    for name, operation, policy in protected_functions():
        if "<locals>" not in name:  # defined again by each call of the enclosing function, a test for example
            by_operation.setdefault(operation, []).append(name)
        try:
            resolved = conf.resolved_once(policy)
            messages += [*check_late(name, resolved), *check_store(name, resolved)]
        except PolicyError as error:
            messages.append(
                Error(
                    f"{name}: {error}",
                    hint="Correct the option where the function is decorated with @once.",
                    id="django_idempotency.E003",
                )
            )
    for operation, names in by_operation.items():
        if len(names) > 1:
            messages.append(
                Error(
                    f"{' and '.join(sorted(names))} are both @once({operation!r}): of two that get one event only the"
                    " first runs, and the other returns its result.",
                    hint="Give each function an operation of its own.",
                    id="django_idempotency.E011",
                )
            )
    return messages
