"""Pages of lists. Where DRF's own pagination takes a default for a number that it cannot read, this one refuses it."""

from typing import Any

from django.db.models import QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request


class StrictPagination(LimitOffsetPagination):
    """`limit` and `offset` are whole numbers, or left out."""

    default_limit = 50
    max_limit = 1000

    def paginate_queryset(self, queryset: QuerySet[Any], request: Request, view: Any = None) -> list[Any] | None:
        for name in (self.limit_query_param, self.offset_query_param):
            if not all(value.isdecimal() for value in request.query_params.getlist(name)):
                raise ValidationError({name: ["A whole number is required."]})
        return super().paginate_queryset(queryset, request, view)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            parameter["schema"]["minimum"] = 0
        return parameters
