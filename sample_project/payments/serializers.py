"""The API's requests and responses. If a serializer refuses, that is a 400: nothing happens, and the key stays free."""

from typing import Any, cast

from django.contrib.auth.models import User
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request

from . import statements
from .models import Account, Charge, Currency, Refund, Transfer

MAX_AMOUNT = 10**12  # minor units; keeps every sum far inside 64 bits


class AmountField(serializers.IntegerField):
    """Whole minor units, at least one. Only JSON integers: `12.50` is refused, not rounded."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=MAX_AMOUNT, **kwargs)


class AccountSerializer(serializers.ModelSerializer[Account]):
    class Meta:
        model = Account
        fields = ["id", "name", "currency", "balance"]


class ChargeSerializer(serializers.ModelSerializer[Charge]):
    amount = AmountField()
    currency = serializers.ChoiceField(choices=Currency.choices)

    class Meta:
        model = Charge
        fields = [
            "id",
            "account",
            "amount",
            "currency",
            "reference",
            "status",
            "decline_code",
            "amount_refunded",
            "created_at",
        ]
        read_only_fields = ["id", "account", "status", "decline_code", "amount_refunded", "created_at"]

    def validate_currency(self, currency: str) -> str:
        account: Account = self.context["view"].account
        if currency != account.currency:
            raise serializers.ValidationError(f"This account holds {account.currency}.")
        return currency


class RefundSerializer(serializers.ModelSerializer[Refund]):
    amount = AmountField(required=False, help_text="Left out: all that is left.")

    class Meta:
        model = Refund
        fields = ["id", "charge", "amount", "reason", "created_at"]
        read_only_fields = ["id", "charge", "created_at"]


class OwnAccountField(serializers.PrimaryKeyRelatedField[Account]):
    """An account of the caller's; another's is refused like one that does not exist."""

    def get_queryset(self) -> QuerySet[Account]:
        request: Request = self.context["request"]
        return Account.objects.filter(owner=cast(User, request.user))


class TransferSerializer(serializers.ModelSerializer[Transfer]):
    amount = AmountField()
    source = OwnAccountField(queryset=Account.objects.none())
    target = OwnAccountField(queryset=Account.objects.none())

    class Meta:
        model = Transfer
        fields = ["id", "source", "target", "amount", "created_at"]
        read_only_fields = ["id", "created_at"]


class CardPaymentSerializer(serializers.Serializer[Any]):
    amount = AmountField()
    currency = serializers.ChoiceField(choices=Currency.choices)
    card = serializers.CharField(max_length=64, help_text="The gateway's name for a card, like tok_visa.")
    reference = serializers.CharField(max_length=64, help_text="The caller's own name for it, such as an order.")

    def validate_currency(self, currency: str) -> str:
        account: Account = self.context["account"]
        if currency != account.currency:
            raise serializers.ValidationError(f"This account holds {account.currency}.")
        return currency


class StatementSerializer(serializers.Serializer[Any]):
    month = serializers.RegexField(r"^[12][0-9]{3}-(0[1-9]|1[0-2])$", help_text="Like 2026-11.")
    file = serializers.ChoiceField(choices=sorted(statements.FILES), default="csv")


# --- answers that are no models; the OpenAPI document alone needs their serializers ---


class CardPaymentAnswerSerializer(CardPaymentSerializer):
    id = serializers.CharField(help_text="The gateway's own, also for a decline.")
    status = serializers.ChoiceField(choices=["succeeded", "declined"])


class TopUpSerializer(serializers.Serializer[Any]):
    deposit = serializers.IntegerField()
    payment = serializers.CharField(help_text="The gateway's own id of it.")


class DetailSerializer(serializers.Serializer[Any]):
    detail = serializers.CharField()
