"""`IdempotencyMixin`: every unsafe method of a DRF class, protected."""

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rest_framework.request import Request
from rest_framework.views import APIView

from django_idempotency.core.policy import NO_OPTIONS, Policy
from django_idempotency.decorators import POLICY, call_method
from django_idempotency.exceptions import PolicyError

__all__ = ["IdempotencyMixin"]

_Base = APIView if TYPE_CHECKING else object


class IdempotencyMixin(_Base):
    """
    Protects the unsafe methods of a DRF view or viewset, actions included: `class PaymentViewSet(IdempotencyMixin, …)`.

    The attribute `idempotency`, a `Policy`, holds the class's options; `@idempotent(...)` on a method is nearer and wins.
    It steps in after `initial`, in which DRF negotiates, authenticates, checks permissions and throttles.

    Raises `PolicyError` when a subclass is made with the bases in an order that would leave it without effect.
    """

    idempotency: ClassVar[Policy] = NO_OPTIONS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.idempotency, Policy):
            raise PolicyError(f"{cls.__name__}.idempotency must be a Policy, not {cls.idempotency!r}.")
        bases = cls.__mro__
        if APIView in bases and bases.index(APIView) < bases.index(IdempotencyMixin):
            raise PolicyError(
                f"IdempotencyMixin must come before the view's own bases:\n\n    class {cls.__name__}(IdempotencyMixin, ...): ..."
            )
        for name in (*cls.http_method_names, "create", "update", "partial_update", "destroy") if APIView in bases else ():
            if inspect.iscoroutinefunction(getattr(cls, name, None)):
                raise PolicyError(f"IdempotencyMixin does not protect async views yet, and {cls.__name__}.{name} is one.")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        name = (request.method or "").lower()
        handler = getattr(self, name, None) if name in self.http_method_names else None
        if handler is not None and not hasattr(handler, POLICY):
            setattr(self, name, partial(call_method, handler, self))
