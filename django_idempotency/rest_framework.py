"""
`IdempotencyMixin` protects the unsafe methods of a DRF view or viewset, actions included:

    class PaymentViewSet(IdempotencyMixin, ModelViewSet):
        idempotency = Policy(required=True)  # optional

The attribute `idempotency`, a `Policy`, holds the class's options; those of `@idempotent(...)` on a method win over it.
The protection begins after `initial`, in which DRF negotiates, authenticates, checks permissions and throttles.

A subclass raises `PolicyError` at its definition if the mixin cannot protect it: if its bases are in the wrong order,
if it is a plain Django view, or if a handler decides itself who may call it, or is async where nothing awaits it.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from django.views import View
from rest_framework.request import Request
from rest_framework.views import APIView

from django_idempotency.core.policy import NO_OPTIONS, POLICY, Policy
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.installation import expect_app
from django_idempotency.protection.introspection import is_async
from django_idempotency.protection.order import check_handler
from django_idempotency.protection.views import call_async_method, call_method

__all__ = ["IdempotencyMixin", "IdempotentRequest"]


# The verbs of a viewset that write, DRF's and adrf's.
WRITING = (
    *("create", "update", "partial_update", "destroy"),
    *("acreate", "aupdate", "partial_aupdate", "adestroy"),
)


class IdempotentRequest(Request):
    """For annotations: DRF's request as a protected handler gets it; `idempotency` is None if it carries no key."""

    idempotency: OperationHandle | None


if TYPE_CHECKING:
    _Base = APIView
else:
    _Base = object


class IdempotencyMixin(_Base):
    # No docstring: drf-spectacular would make it the description of every operation of a view that has none of its own.

    idempotency: ClassVar[Policy] = NO_OPTIONS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        expect_app()
        if not isinstance(cls.idempotency, Policy):
            raise PolicyError(f"{cls.__name__}.idempotency must be a Policy, not {cls.idempotency!r}.")
        bases = cls.__mro__
        if APIView in bases:
            if bases.index(APIView) < bases.index(IdempotencyMixin):
                raise PolicyError(
                    "IdempotencyMixin must come before the view's own bases:\n\n"
                    f"    class {cls.__name__}(IdempotencyMixin, ...): ..."
                )
            is_sync = next(base for base in bases if "dispatch" in vars(base)) is APIView
            for handler in _handlers(cls):
                check_handler(handler)
                if is_sync and is_async(handler):
                    raise PolicyError(
                        f"{handler.__qualname__} is async, and DRF's own views do not await their handlers: extend"
                        " those of adrf, or make it a plain `def`."
                    )
        elif View in bases:
            raise PolicyError(
                f"IdempotencyMixin protects DRF views, and {cls.__name__} is a plain Django view:\n\n"
                f'    @method_decorator(idempotent, name="post")\n    class {cls.__name__}(View): ...'
            )

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        name = (request.method or "").lower()
        handler = getattr(self, name, None) if name in self.http_method_names else None
        if handler is not None and not hasattr(handler, POLICY):
            setattr(self, name, partial(call_async_method if is_async(handler) else call_method, handler, self))


def _handlers(view_class: type[APIView]) -> Iterator[Any]:
    """Yield what DRF may call for a request: the methods named after HTTP's, and a viewset's verbs and actions."""
    for name in (*view_class.http_method_names, *WRITING):
        handler = getattr(view_class, name, None)
        if handler is not None:
            yield handler
    for name in {
        name for base in view_class.__mro__ for name, value in tuple(vars(base).items()) if hasattr(value, "mapping")
    }:
        yield getattr(view_class, name)
