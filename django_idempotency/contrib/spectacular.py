"""
drf-spectacular: its OpenAPI documents tell of keys, without a line in the project.

If `drf_spectacular` is in INSTALLED_APPS, `document` is added to `SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"]` when
Django starts, as the last one. A hook is drf-spectacular's documented way to a whole document, and leaves the project's
classes as they are. An `AutoSchema` would have to stand in for the project's own, an extension for views misses those
with `@extend_schema`, and both miss operations that are written by hand. The price is that the hook has to find out
which operation belongs to which view.

To let it run earlier, or with `custom_settings` that have other hooks, name it there:
"django_idempotency.contrib.spectacular.document".

Tested with drf-spectacular from 0.28 on: `pip install "django-idempotency[spectacular]"`.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from drf_spectacular.settings import spectacular_settings
from rest_framework.versioning import URLPathVersioning

from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.operations import openapi

__all__ = ["document"]

COMPONENT = "IdempotencyProblem"
INVALID = 400  # with which DRF refuses a request that is not valid


def install() -> None:
    """Add the hook, unless the project has named it."""
    try:
        hooks = spectacular_settings.POSTPROCESSING_HOOKS
    except ImportError:  # of a hook of the project's; drf-spectacular raises it when it makes a document
        return
    if document not in hooks:
        hooks.append(document)


def document(result: dict[str, Any], generator: Any, **kwargs: object) -> dict[str, Any]:
    """
    Add to each protected operation of the document *result* the key's header with the policy in words, the refusals and
    the replay header. What `@extend_schema` says of the same comes first.

    *generator* is drf-spectacular's `SchemaGenerator`. An operation in observe mode stays as it is, because it refuses
    and replays nothing. Raises `PolicyError` for options of a view that cannot be used.
    """
    from rest_framework.views import exception_handler  # imports classes that the project's settings name

    is_used = False
    for operation, view, policy in _protected(result["paths"], generator):
        has_problems = view.get_exception_handler() is exception_handler
        _describe(operation, policy, {"$ref": f"#/components/schemas/{COMPONENT}"} if has_problems else None)
        is_used = is_used or has_problems
    if is_used:
        schemas = result.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault(COMPONENT, dict(openapi.PROBLEM_SCHEMA))
    return result


def _describe(operation: dict[str, Any], policy: ResolvedPolicy, problem: Mapping[str, Any] | None) -> None:
    parameter = openapi.key_parameter(policy)
    parameters = operation.get("parameters", [])
    if parameter is None:
        text = f"The idempotency key is a part of the request.\n\n{openapi.description(policy)}"
        operation["description"] = _joined(operation.get("description"), text)
    elif not any(each.get("name", "").lower() == policy.header.lower() for each in parameters):
        operation["parameters"] = [*parameters, parameter]
    responses = operation.setdefault("responses", {})
    for status, response in responses.items():
        if marker := openapi.response_headers(policy, status):
            responses[status] = _merged(response, {"headers": marker})
    invalid = None if str(INVALID) in responses else INVALID
    for number, ours in openapi.refusals(policy, problem, invalid).items():
        responses[str(number)] = _merged(responses.get(str(number), {}), ours)


def _merged(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """A response of the view with what we have to add. It may be shared with other operations, so it is copied."""
    if "$ref" in theirs:  # written by hand; nothing may stand beside it
        return {**theirs}
    merged = {**theirs, "description": _joined(theirs.get("description"), ours.get("description"))}
    for part in ("headers", "content"):
        if part in ours:
            own = theirs.get(part, {})
            merged[part] = {**own, **{name: value for name, value in ours[part].items() if name not in own}}
    return merged


def _joined(*texts: Any) -> str:
    return "\n\n".join(str(text) for text in texts if text)  # some are translated when they are shown


# --- which operation belongs to which view ---


def _protected(paths: Mapping[str, Any], generator: Any) -> Iterator[tuple[dict[str, Any], Any, ResolvedPolicy]]:
    """Each protected operation of *paths* with its view and its policy."""
    by_shape = {_shape(path): operations for path, operations in reversed(list(paths.items()))}
    for path, route, method, callback, view in _endpoints(generator):
        operation = paths.get(path, by_shape.get(_shape(path), {})).get(method.lower())
        if operation is None:  # left out, of another version, or not for the user who asks
            continue
        policy = openapi.policy_for(callback, method, route)
        if policy is not None:
            yield operation, view, policy


def _endpoints(generator: Any) -> Iterator[tuple[str, str, str, Any, Any]]:
    """The path, route, method, callback and view of each endpoint. The path is made as `SchemaGenerator.parse` does."""
    found = []
    for path, route, method, callback in generator.endpoints:
        view = generator.create_view(callback, method)
        found.append((generator.coerce_path(path, method, view), route, method, callback, view))
    prefix = spectacular_settings.SCHEMA_PATH_PREFIX
    if prefix is None:
        several = len({type(view) for *_, view in found}) > 1
        prefix = re.escape(posixpath.commonpath([path for path, *_ in found])) if several else "/"
    for path, *others, view in found:
        versioning = view.versioning_class
        if versioning is not None and issubclass(versioning, URLPathVersioning):
            version = generator.api_version or versioning.default_version
            path = path.replace(f"{{{versioning.version_param}}}", str(version))
        if spectacular_settings.SCHEMA_PATH_PREFIX_TRIM:
            path = re.sub(f"^{prefix.removeprefix('^')}", "", path, flags=re.IGNORECASE)
        path = f"{spectacular_settings.SCHEMA_PATH_PREFIX_INSERT}{path}"
        yield f"/{path.removeprefix('/')}", *others, view


def _shape(path: str) -> str:
    """*path* without the names of its parameters, which `CAMELIZE_NAMES` changes."""
    return re.sub(r"{\w+}", "{}", path)
