from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from .models import Account


class IsAccountOwner(BasePermission):
    """An account's owner may do everything with it and its charges; staff may look."""

    message = "Only its owner can move an account's money."

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        if request.method in SAFE_METHODS:
            return True  # what one may not know of is not found: `AccountQuerySet.visible_to`
        account = obj if isinstance(obj, Account) else obj.account
        return account.owner_id == request.user.pk
