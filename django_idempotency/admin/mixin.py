"""
`IdempotencyAdminMixin` lets the add and change pages of a `ModelAdmin` take effect once:

    @admin.register(Invoice)
    class InvoiceAdmin(IdempotencyAdminMixin, admin.ModelAdmin):
        idempotency = Policy(ttl=timedelta(hours=1))  # optional
"""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.admin import ModelAdmin
from django.contrib.admin.options import TO_FIELD_VAR
from django.contrib.admin.utils import unquote
from django.core.checks import CheckMessage, Error
from django.core.exceptions import PermissionDenied
from django.db import router
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse

from django_idempotency import conf
from django_idempotency.adapters.plain import FORM_ANSWER
from django_idempotency.checks.late import check_late
from django_idempotency.core.policy import NO_OPTIONS, Policy
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.installation import expect_app
from django_idempotency.protection.views import call_method
from django_idempotency.stores import stores

if TYPE_CHECKING:
    _Base = ModelAdmin[Any]
else:
    _Base = object

TEMPLATE = "admin/django_idempotency/form_with_key.html"


class IdempotencyAdminMixin(_Base):
    """
    Puts a key into the forms of a `ModelAdmin`, so that a double click, a reload or the back button saves once.

    The attribute `idempotency`, a `Policy`, holds the options. Defining a subclass raises `PolicyError` if it is no
    `ModelAdmin`, or if `ModelAdmin` comes before the mixin in its bases.
    """

    idempotency: ClassVar[Policy] = NO_OPTIONS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        expect_app()
        if not isinstance(cls.idempotency, Policy):
            raise PolicyError(f"{cls.__name__}.idempotency must be a Policy, not {cls.idempotency!r}.")
        bases = cls.__mro__
        if ModelAdmin not in bases and any(not issubclass(base, IdempotencyAdminMixin) for base in cls.__bases__):
            raise PolicyError(
                f"IdempotencyAdminMixin protects the pages of a ModelAdmin, and {cls.__name__} is none:\n\n"
                f"    class {cls.__name__}(IdempotencyAdminMixin, admin.ModelAdmin): ..."
            )
        if ModelAdmin in bases and bases.index(ModelAdmin) < bases.index(IdempotencyAdminMixin):
            raise PolicyError(
                "IdempotencyAdminMixin must come before the other bases:\n\n"
                f"    class {cls.__name__}(IdempotencyAdminMixin, ...): ..."
            )

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        if request.method == "POST":
            self._check_permission(request, object_id)
        return call_method(super().changeform_view, self, request, object_id, form_url, extra_context)

    def _check_permission(self, request: HttpRequest, object_id: str | None) -> None:
        """Raise `PermissionDenied` as Django does behind `changeform_view`, which a replay does not reach."""
        if object_id is None or "_saveasnew" in request.POST:
            may = self.has_add_permission(request)
        else:
            field = request.POST.get(TO_FIELD_VAR, request.GET.get(TO_FIELD_VAR))
            if field and not self.to_field_allowed(request, field):
                field = None  # Django refuses it in the view
            may = self.has_change_permission(request, self.get_object(request, unquote(object_id), field))
        if not may:
            raise PermissionDenied

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().render_change_form(request, context, *args, **kwargs)
        if isinstance(response, TemplateResponse) and response.template_name != TEMPLATE:
            # Whichever template the project or Django has for the form: ours extends it.
            parent: Any = response.resolve_template(response.template_name)
            response.context_data = {**(response.context_data or {}), "form_template": parent.template}
            response.template_name = TEMPLATE
        return response

    def response_add(self, request: HttpRequest, obj: Any, *args: Any, **kwargs: Any) -> Any:
        return _answer(super().response_add(request, obj, *args, **kwargs))

    def response_change(self, request: HttpRequest, obj: Any, *args: Any, **kwargs: Any) -> Any:
        return _answer(super().response_change(request, obj, *args, **kwargs))

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Also E003, E007, E017 and W019, which are found in the URLconf for other views."""
        return [*super().check(**kwargs), *self._check_policy()]

    def _check_policy(self) -> list[CheckMessage]:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        try:
            policy = conf.resolved(self.idempotency)
        except PolicyError as error:
            return [
                Error(f"{name}: {error}", hint="Correct its attribute `idempotency`.", id="django_idempotency.E003")
            ]
        late = [*check_late(name, policy)]
        store, of_model = stores[policy.store], router.db_for_write(self.model)
        if callable(policy.using) or (store.commits_with_handler and (policy.using or store.database()) == of_model):
            return late
        return [
            *late,
            Error(
                f"{name} writes {self.model._meta.label} to database {of_model!r}, and store {policy.store!r} keeps its"
                " record elsewhere: the two do not commit together.",
                hint=f"Set `idempotency = Policy(using={of_model!r})`, with a DatabaseStore.",
                id="django_idempotency.E007",
            ),
        ]


def _answer(response: HttpResponseBase) -> HttpResponseBase:
    """Mark *response* as the answer to a saved form. In a pop-up window it is a page that closes it, no redirect."""
    setattr(response, FORM_ANSWER, True)
    return response
