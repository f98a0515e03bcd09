"""What drf-spectacular leaves out of the OpenAPI document: DRF's own errors."""

from typing import Any

from drf_spectacular import openapi

from .serializers import DetailSerializer


class AutoSchema(openapi.AutoSchema):
    """Adds the errors that DRF answers with before the handler, or for a path that names nothing."""

    def get_operation(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation = super().get_operation(path, *args, **kwargs)
        if operation is None:
            return None
        errors = {"401": "Who asks is not known."}
        if "{" in path:
            errors |= {"403": "It is another's.", "404": "It does not exist, or is not to be seen by who asks."}
        if "requestBody" in operation:
            errors["415"] = "The body is of none of the media types above."
        detail = self.resolve_serializer(DetailSerializer, "response").ref
        responses = {status: (text, {"schema": detail}) for status, text in errors.items()}
        responses["400"] = ("The request is not valid.", {})  # each serializer names its own fields
        for status, (text, content) in responses.items():
            operation["responses"].setdefault(status, {"description": text, "content": {"application/json": content}})
        return operation
