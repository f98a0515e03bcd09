"""The admin shows; money moves through the ledger alone."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from django_idempotency.admin import IdempotencyAdminMixin

from .models import Account, Charge, Deposit, Refund, Transfer


@admin.register(Account)
class AccountAdmin(IdempotencyAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]
    """Saved once, however often its form is sent."""

    list_display = ["name", "owner", "currency", "balance"]
    list_select_related = ["owner"]
    search_fields = ["name", "owner__username"]
    readonly_fields = ["balance"]


class LedgerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that record what has happened are read, never edited."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Charge)
class ChargeAdmin(LedgerAdmin):
    list_display = ["id", "account", "amount", "currency", "status", "amount_refunded", "created_at"]
    list_filter = ["status", "currency"]
    list_select_related = ["account"]
    search_fields = ["reference"]


@admin.register(Refund)
class RefundAdmin(LedgerAdmin):
    list_display = ["id", "charge", "amount", "reason", "created_at"]
    list_select_related = ["charge"]


@admin.register(Transfer)
class TransferAdmin(LedgerAdmin):
    list_display = ["id", "source", "target", "amount", "created_at"]
    list_select_related = ["source", "target"]


@admin.register(Deposit)
class DepositAdmin(LedgerAdmin):
    list_display = ["id", "account", "amount", "invoice", "created_at"]
    list_select_related = ["account"]
    search_fields = ["invoice"]
