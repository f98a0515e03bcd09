"""
The API's views. The middleware protects them; what has other options than the project's says so, in a `Policy` or
by the decorator.

Nothing in their bodies depends on keys or retries. What they write and the answer that they return commit together; a
retry with the same key gets that answer. Only the work of `pay_by_card` is elsewhere, where no transaction reaches, and
that of `top_up` is half there, half here.
"""

from datetime import timedelta
from typing import Any, cast

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.functional import cached_property
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action, api_view
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from django_idempotency import Policy, idempotent
from django_idempotency.rest_framework import IdempotentRequest

from . import cards, ledger, statements
from .models import Account, Charge
from .permissions import IsAccountOwner
from .serializers import (
    AccountSerializer,
    CardPaymentAnswerSerializer,
    CardPaymentSerializer,
    ChargeSerializer,
    DetailSerializer,
    RefundSerializer,
    StatementSerializer,
    TopUpSerializer,
    TransferSerializer,
)


class AccountViewSet(viewsets.ReadOnlyModelViewSet[Account]):
    queryset = Account.objects.order_by("pk")
    serializer_class = AccountSerializer
    lookup_value_converter = "int"

    def get_queryset(self) -> QuerySet[Account]:
        return Account.objects.visible_to(cast(User, self.request.user)).order_by("pk")


class ChargeViewSet(
    mixins.CreateModelMixin,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    viewsets.GenericViewSet[Charge],
):
    """Charges of one account. A POST without an Idempotency-Key is refused, because it cannot be retried safely."""

    idempotency = Policy(required=True)
    queryset = Charge.objects.all()
    serializer_class = ChargeSerializer
    permission_classes = [IsAuthenticated, IsAccountOwner]
    lookup_value_converter = "int"

    @cached_property
    def account(self) -> Account:
        """The account in the URL. An account that the user may not see is not found."""
        visible = Account.objects.visible_to(cast(User, self.request.user))
        return get_object_or_404(visible, pk=self.kwargs["account_pk"])

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Checked here, not in the handler, so that it is checked for a retry too."""
        super().initial(request, *args, **kwargs)
        self.check_object_permissions(request, self.account)

    def get_queryset(self) -> QuerySet[Charge]:
        return Charge.objects.filter(account=self.account).select_related("account")

    @extend_schema(responses={201: ChargeSerializer, 402: ChargeSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """201, or 402 for a decline. That is an answer too: it is stored, and a retry gets it again."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        charge = ledger.charge(
            self.account,
            amount=serializer.validated_data["amount"],
            reference=serializer.validated_data["reference"],
        )
        declined = charge.status == Charge.Status.DECLINED
        return Response(
            self.get_serializer(charge).data,
            status=status.HTTP_402_PAYMENT_REQUIRED if declined else status.HTTP_201_CREATED,
            headers={"Location": reverse("charge-detail", [self.account.pk, charge.pk], request=request)},
        )

    @extend_schema(responses={201: RefundSerializer})
    @action(detail=True, methods=["post"], serializer_class=RefundSerializer)
    # By the decorator, because of its option, and because the handler asks for permission: `get_object` does. A replay
    # needs no more, because `initial` has asked for the account.
    @idempotent(ttl=timedelta(days=7))
    def refund(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Support works through refunds by hand, over days: their keys are remembered for a week."""
        charge = self.get_object()
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            refund = ledger.refund(charge, **serializer.validated_data)
        except ledger.LedgerRefusal as refusal:
            raise ValidationError({"amount": [str(refusal)]}) from refusal
        return Response(self.get_serializer(refund).data, status=status.HTTP_201_CREATED)


@extend_schema(request=TransferSerializer, responses={201: TransferSerializer})
@api_view(["POST"])
def create_transfer(request: Request) -> Response:
    """Move money between two accounts of the caller. A key is optional here."""
    serializer = TransferSerializer(data=request.data, context={"request": request})
    serializer.is_valid(raise_exception=True)
    try:
        transfer = ledger.transfer(**serializer.validated_data)
    except ledger.LedgerRefusal as refusal:
        raise ValidationError({"detail": str(refusal)}) from refusal
    answer = TransferSerializer(transfer, context={"request": request}).data
    return Response(answer, status=status.HTTP_201_CREATED)


# By the decorator, because of its options: there is a fee, and months are ordered by hand, over days.
@extend_schema(
    request=StatementSerializer,
    responses={
        (201, "text/csv"): str,
        (201, "application/zip"): bytes,
        402: DetailSerializer,
        404: DetailSerializer,
    },
)
@api_view(["POST"])
@idempotent(required=True, ttl=timedelta(days=7))
def order_statement(request: Request, account_pk: int) -> Response | HttpResponse:
    """
    A month's bookings as a file, for a fee. A retry gets the same file, and the fee is taken once.

    404 for a month without bookings and 402 for an account that cannot pay are answers too: a retry gets them again.
    """
    account = get_object_or_404(Account.objects.filter(owner=cast(User, request.user)), pk=account_pk)
    serializer = StatementSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    month, file = serializer.validated_data["month"], serializer.validated_data["file"]
    bookings = statements.bookings(account, month)
    if not bookings:
        return Response({"detail": f"Nothing was booked in {month}."}, status=status.HTTP_404_NOT_FOUND)
    fee = ledger.charge(account, amount=statements.FEE, reference=statements.reference(month))
    if fee.status == Charge.Status.DECLINED:
        return Response({"detail": "The fee cannot be paid."}, status=status.HTTP_402_PAYMENT_REQUIRED)
    content_type, write = statements.FILES[file]
    return HttpResponse(
        write(bookings),
        content_type=content_type,
        status=status.HTTP_201_CREATED,
        headers={"Content-Disposition": statements.disposition(month, file)},
    )


class GatewayUnreachable(APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The card gateway cannot be reached. No card was charged."


class GatewaySilent(APIException):
    status_code = status.HTTP_504_GATEWAY_TIMEOUT
    default_detail = "The card gateway has not answered. Send the same request again to find out what it did."


# By the decorator, because of its options. The lease is renewed while the worker lives. It is short, so that the
# outcome of a dead worker is looked into soon.
@extend_schema(
    request=CardPaymentSerializer,
    responses={
        201: CardPaymentAnswerSerializer,
        402: CardPaymentAnswerSerializer,
        503: DetailSerializer,
        504: DetailSerializer,
    },
)
@api_view(["POST"])
@idempotent(store="redis", required=True, lease=timedelta(seconds=5))
def pay_by_card(request: IdempotentRequest, account_pk: int) -> Response:
    """
    Charge a card at the gateway; the money comes later, with an `invoice.paid` event. Nothing is written here, so the
    key is kept in Redis. An exception of DRF is a refusal, and frees the key:

    - Unreachable, 503: nothing was sent, so a retry may run.
    - Silent, 504: the result is not known. A retry may run only because it sends the gateway the same derived key, and
      so learns the result of the first call. For a gateway without keys, raise `OutcomeUncertain` instead.
    - Killed, or any other exception: the key is not free. Retries get 409 until somebody has looked at the gateway's
      books.
    """
    account = get_object_or_404(Account.objects.filter(owner=cast(User, request.user)), pk=account_pk)
    serializer = CardPaymentSerializer(data=request.data, context={"account": account})
    serializer.is_valid(raise_exception=True)
    operation = request.idempotency
    try:
        code, answer = cards.charge(
            serializer.validated_data, key=operation.derive_key("gateway") if operation else None
        )
    except cards.GatewayUnreachable as error:
        raise GatewayUnreachable from error
    except cards.GatewaySilent as error:
        raise GatewaySilent from error
    return Response(answer, status=code)


# In phases, because a card that was charged cannot be rolled back, and the deposit must follow. If the worker dies in
# between and the caller never comes back, `manage.py idempotency_resume` goes on from there.
@extend_schema(
    request=CardPaymentSerializer,
    responses={201: TopUpSerializer, 402: CardPaymentAnswerSerializer, 503: DetailSerializer, 504: DetailSerializer},
)
@api_view(["POST"])
@idempotent(mode="phased", required=True, lease=timedelta(seconds=5))
def top_up(request: IdempotentRequest, account_pk: int) -> Response:
    """
    Charge a card at the gateway, and put the money on the account. A decline (402) is an answer.

    - Unreachable, 503: nothing was sent, and the key is free.
    - Silent, 504: the result is not known, and the key stays taken. The next attempt sends the gateway the same derived
      key, and so learns the result.
    """
    account = get_object_or_404(Account.objects.filter(owner=cast(User, request.user)), pk=account_pk)
    serializer = CardPaymentSerializer(data=request.data, context={"account": account})
    serializer.is_valid(raise_exception=True)
    order = serializer.validated_data
    phase = cast(Any, request.idempotency).phase  # a key is required
    try:
        code, payment = phase("charge", lambda key: [*cards.charge(order, key=key)])
    except cards.GatewayUnreachable as error:
        raise GatewayUnreachable from error
    except cards.GatewaySilent as error:
        raise GatewaySilent from error
    if code != status.HTTP_201_CREATED:
        return Response(payment, status=code)
    deposit = phase("deposit", lambda: ledger.deposit(account, amount=order["amount"], invoice=payment["id"]).pk)
    return Response({"deposit": deposit, "payment": payment["id"]}, status=status.HTTP_201_CREATED)
