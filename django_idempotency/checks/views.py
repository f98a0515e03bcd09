"""The checks of the protected views, as far as the URLconf leads to them."""

from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import cast

from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Error, Tags, Warning, register
from django.db import models, router

from django_idempotency import conf
from django_idempotency.checks.callers import check_login, check_scope
from django_idempotency.checks.late import check_aliases, check_late
from django_idempotency.checks.phases import check_requests, check_store
from django_idempotency.checks.settings import needs_setting
from django_idempotency.core.policy import POLICY, Policy, ResolvedPolicy
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.by_default import atomic_databases, atomic_requests_error
from django_idempotency.protection.introspection import dispatch_layers, has_mixin, is_async, layers, module_of
from django_idempotency.protection.order import check_dispatch, check_layers
from django_idempotency.protection.routes import Handler, View, views
from django_idempotency.protection.views import idempotent
from django_idempotency.stores import stores

OUR_DECORATORS = idempotent.__module__


@register(Tags.urls)
@needs_setting
def check_views(**kwargs: object) -> list[CheckMessage]:
    """E003 to E005, E007, E017 to E020, W002, W003, W006, W016, W017, W019, W020: every protected view."""
    messages: dict[tuple[str | None, str], CheckMessage] = {}
    for view in views():
        for message in _check_view(view):
            if message.level < ERROR and str(message.id).rpartition(".")[2] in view.silenced:
                continue
            of_any_route = message.msg.replace(repr(view.route), "")  # one message, for the first route
            messages.setdefault((message.id, of_any_route), message)
    return list(messages.values())


def _check_view(view: View) -> Iterator[CheckMessage]:
    yield from _check_dispatch(view)
    yield from _check_unprotected(view)
    protecting = []
    for handler in view.handlers:
        try:
            policy = conf.resolved(*handler.policies)
        except PolicyError as error:
            yield Error(
                f"{handler.name} (route {view.route!r}): {error}",
                hint="Correct the option where the view is decorated, or in its class's `idempotency`.",
                id="django_idempotency.E003",
            )
            continue
        yield from _check_place(view, handler)
        if handler.methods and not handler.methods & policy.methods:
            if handler.decorated:
                yield _without_effect(view, handler, policy)
            continue
        protecting.append(policy)
        yield from _check_async(view, handler)
        yield from _check_database(view, handler, policy)
        yield from check_late(f"{handler.name} (route {view.route!r})", policy)
        yield from check_aliases(handler.name, view.route, policy)
        yield from check_store(f"{handler.name} (route {view.route!r})", policy)
        yield from check_requests(f"{handler.name} (route {view.route!r})", policy, view.non_atomic_requests)
    if protecting:
        yield from check_login(view)
        if any(policy.scope is None for policy in protecting):
            yield from check_scope(view)


def _check_place(view: View, handler: Handler) -> Iterator[CheckMessage]:
    """E004, for what a decorator could not see around itself; the rest was raised at import."""
    every = list(layers(handler.function))
    ours = next((position for position, layer in enumerate(every) if module_of(layer) == OUR_DECORATORS), -1)
    try:
        check_layers(every[ours + 1 :], handler.function)
    except PolicyError as error:
        yield _misplaced(f"{handler.name} (route {view.route!r})", error)


def _check_dispatch(view: View) -> Iterator[CheckMessage]:
    if view.view_class is None:
        return
    ours = [layer for layer in dispatch_layers(view.view_class) if module_of(layer) == OUR_DECORATORS]
    try:
        for layer in ours[:1]:
            check_dispatch(cast(Hashable, view.view_class), layer)
    except PolicyError as error:
        yield _misplaced(str(view), error)


def _misplaced(view: str, error: object) -> CheckMessage:
    return Error(
        f"{view}: {error}",
        hint="Protect the handler itself, inside everything that decides who may call it: on a plain Django view with"
        ' @method_decorator(idempotent, name="post"), on a DRF view with IdempotencyMixin.',
        id="django_idempotency.E004",
    )


def _check_unprotected(view: View) -> Iterator[CheckMessage]:
    view_class = view.view_class
    if view_class is None or view.handlers or not isinstance(view.attribute("idempotency"), Policy):
        return
    if has_mixin(view_class) or any(
        hasattr(value, POLICY) for base in view_class.__mro__ for value in tuple(vars(base).values())
    ):
        return  # this route only reads, or others are protected
    yield Error(
        f"{view} has a Policy in `idempotency`, but nothing protects it.",
        hint="Add IdempotencyMixin before the bases of a DRF view, or decorate its handlers with @idempotent.",
        id="django_idempotency.E005",
    )


def _check_database(view: View, handler: Handler, policy: ResolvedPolicy) -> Iterator[CheckMessage]:
    yield from _check_transaction(view, handler, policy)
    model = _written_model(view)
    if model is None or callable(policy.using):
        return
    store, of_model = stores[policy.store], router.db_for_write(model)
    place = f"in {policy.using or store.database()!r}"
    hint = f"Set the option using={of_model!r}, so that the record is kept where the view writes."
    if not store.commits_with_handler:
        place = "outside the databases"
        hint = "Use a DatabaseStore for work in a database; other stores are for work that is not in one."
    elif (policy.using or store.database()) == of_model:
        return
    yield Error(
        f"{handler.name} (route {view.route!r}) writes {model._meta.label} to database {of_model!r}, but store"
        f" {policy.store!r} keeps its record {place}: the two do not commit together.",
        hint=hint,
        id="django_idempotency.E007",
    )


def _check_async(view: View, handler: Handler) -> Iterator[CheckMessage]:
    aliases = atomic_databases(view.non_atomic_requests)
    if aliases and is_async(view.callback):
        yield Error(
            atomic_requests_error(f"{handler.name} (route {view.route!r})", aliases),
            hint="Django raises RuntimeError for each of its requests.",
            id="django_idempotency.E020",
        )


def _check_transaction(view: View, handler: Handler, policy: ResolvedPolicy) -> Iterator[CheckMessage]:
    if stores[policy.store].commits_with_handler:
        return
    excepted: Collection[str] = view.non_atomic_requests
    around = [alias for alias, options in settings.DATABASES.items() if options.get("ATOMIC_REQUESTS")]
    if left := [alias for alias in around if alias not in excepted]:
        yield Warning(
            f"{handler.name} (route {view.route!r}) keeps its record in store {policy.store!r}, outside the database,"
            f" and ATOMIC_REQUESTS of {left[0]!r} commits after it: what the handler writes there may be rolled back"
            " although its answer is stored.",
            hint="Decorate the view with @transaction.non_atomic_requests, or use a DatabaseStore.",
            id="django_idempotency.W016",
        )


def _written_model(view: View) -> type[models.Model] | None:
    """The model of a generic view, Django's or DRF's."""
    serializer = view.attribute("serializer_class")
    for owner in (view.attribute("queryset"), view, getattr(serializer, "Meta", None)):
        model = view.attribute("model") if owner is view else getattr(owner, "model", None)
        if isinstance(model, type) and issubclass(model, models.Model) and not model._meta.abstract:
            return model
    return None


def _without_effect(view: View, handler: Handler, policy: ResolvedPolicy) -> CheckMessage:
    return Warning(
        f"{handler.name} (route {view.route!r}) is decorated with @idempotent and answers"
        f" {_format_methods(handler.methods)}, but its option 'methods' is {_format_methods(policy.methods)}:"
        " nothing is protected.",
        hint="Name the method in the option `methods`, or remove the decorator.",
        id="django_idempotency.W006",
    )


def _format_methods(methods: Iterable[str]) -> str:
    return ", ".join(sorted(methods))
