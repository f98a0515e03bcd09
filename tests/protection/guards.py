"""Guards of a project's own, in a module that views import as a whole or when they run."""

from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from rest_framework.exceptions import APIException


def vip(user: Any) -> bool:
    return getattr(user, "first_name", "") == "vip"


def require_vip(request: Any) -> None:
    if not vip(request.user):
        raise PermissionDenied


def vips_only(view: Any) -> Any:
    @wraps(view)
    def inner(request: Any, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs) if vip(request.user) else HttpResponse(status=403)

    return inner


class NotVip(PermissionDenied):
    """Not for you."""


class NotVipApi(APIException):
    status_code = 403


class Checker:
    def __init__(self, request: Any) -> None:
        require_vip(request)


class Check:
    def __call__(self, request: Any) -> None:
        require_vip(request)


check = Check()
