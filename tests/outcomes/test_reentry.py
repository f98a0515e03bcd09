"""Calls for the identity that is executing join it; calls for another one stand on their own."""

import pytest
from rest_framework import generics, viewsets

from django_idempotency import Policy, idempotent, once
from django_idempotency.exceptions import KeyReused
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.app.views import PaymentSerializer, answer, make_payment

pytestmark = pytest.mark.django_db(transaction=True)


@once("invoice.paid", key=lambda event: event["id"], fingerprint=lambda event: bytes([event["amount"]]))
def on_invoice_paid(event):
    return {"payment": Payment.objects.create(amount=event["amount"]).pk}


def assert_executed_once(client, first, *, payments: int = 1) -> None:
    second = post(client)
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert is_replay(second)
    assert Payment.objects.count() == payments
    assert IdempotencyRecord.objects.count() == payments


def test_mixin_and_decorator_on_one_handler(api, serve, atomic_requests):
    """They are one protection, and the decorator's options win."""

    class View(IdempotencyMixin, generics.CreateAPIView):
        idempotency = Policy(replayed_header="X-From-The-Class")
        queryset = Payment.objects.all()
        serializer_class = PaymentSerializer

        @idempotent(replayed_header="Idempotency-Replayed")
        def post(self, request, *args, **kwargs):
            return super().post(request, *args, **kwargs)

    serve(View.as_view())

    assert_executed_once(api, post(api))


def test_a_protected_method_calls_its_protected_parent(api, serve, atomic_requests):
    """`super().create()` joins, and what the child makes of its answer is what is sent and stored."""

    class Parent(viewsets.ModelViewSet):
        queryset = Payment.objects.all()
        serializer_class = PaymentSerializer

        @idempotent
        def create(self, request, *args, **kwargs):
            return super().create(request, *args, **kwargs)

    class ViewSet(IdempotencyMixin, Parent):
        @idempotent
        def create(self, request, *args, **kwargs):
            response = super().create(request, *args, **kwargs)
            response.data["child"] = "was here"
            return response

    serve(ViewSet.as_view({"post": "create"}))

    first = post(api)

    assert first.json()["child"] == "was here"
    assert_executed_once(api, first)


def test_a_plain_view_that_is_protected_twice(browser, serve, atomic_requests):
    """Two decorators on one view are one protection."""
    serve(idempotent(idempotent(make_payment)))

    assert_executed_once(browser, post(browser))


def test_a_refusal_of_the_inner_call_is_the_outer_ones_to_judge(api, serve, atomic_requests):
    """The inner call only joins: what counts is what the outer handler returns."""

    class Parent(viewsets.ViewSet):
        @idempotent
        def create(self, request):
            return answer(request, {"no": True}, 422)

    class ViewSet(Parent):
        @idempotent
        def create(self, request):
            assert super().create(request).status_code == 422
            return make_payment(request)

    serve(ViewSet.as_view({"post": "create"}))

    assert_executed_once(api, post(api))


def test_the_inner_call_sees_the_same_handle(api, serve):
    """`request.idempotency` is one operation's wherever one looks, and still there after the inner call."""
    seen = []

    class Parent(viewsets.ViewSet):
        @idempotent
        def create(self, request):
            seen.append(request.idempotency.derive_key("gateway"))
            return make_payment(request)

    class ViewSet(Parent):
        @idempotent
        def create(self, request):
            seen.append(request.idempotency.derive_key("gateway"))
            response = super().create(request)
            seen.append(request.idempotency.derive_key("gateway"))
            return response

    serve(ViewSet.as_view({"post": "create"}))

    assert post(api).status_code == 201
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_a_recursive_once_joins():
    """A function that calls itself for the same event is one execution of it, recorded by the outermost call."""

    @once("count.down", key=lambda number, depth: number, fingerprint=lambda number, depth: b"")
    def count_down(number, depth):
        Payment.objects.create(amount=depth)
        return 0 if depth == 0 else 1 + count_down(number, depth - 1)

    assert count_down(1, 3) == 3
    assert count_down(1, 3) == 3
    assert Payment.objects.count() == 4
    assert IdempotencyRecord.objects.count() == 1


def test_a_recursive_once_for_another_event_stands_on_its_own():
    """Each event has its own record, in the outer one's transaction."""

    @once("count.down", key=lambda number: number)
    def count_down(number):
        Payment.objects.create(amount=number)
        return 0 if number == 0 else 1 + count_down(number - 1)

    assert count_down(3) == 3
    assert IdempotencyRecord.objects.count() == 4
    assert count_down(1) == 1
    assert Payment.objects.count() == 4


def test_once_inside_a_protected_view(protect, client, serve, atomic_requests):
    """The event's record and the view's commit together, and each replays on its own."""
    serve(protect(lambda request: answer(request, on_invoice_paid({"id": "evt-1", "amount": 5}))))

    first, second, other_key = post(client), post(client), post(client, key="key-2")

    assert first.json() == second.json() == other_key.json()
    assert (is_replay(second), is_replay(other_key)) == (True, False)
    assert Payment.objects.count() == 1
    assert IdempotencyRecord.objects.count() == 3


def test_once_inside_a_view_that_refuses_is_rolled_back_with_it(protect, client, serve, atomic_requests):
    """The inner record is part of the outer work."""

    def handler(request):
        on_invoice_paid({"id": "evt-1", "amount": 5})
        return answer(request, {}, 422)

    serve(protect(handler))

    assert post(client).status_code == 422
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_an_error_of_an_inner_once_can_be_caught(protect, client, serve, atomic_requests):
    """What the inner operation refuses is rolled back in its own savepoint; the outer one goes on."""

    def handler(request):
        on_invoice_paid({"id": "evt-1", "amount": 5})
        with pytest.raises(KeyReused):
            on_invoice_paid({"id": "evt-1", "amount": 6})
        return answer(request, {"paid": True})

    serve(protect(handler))

    assert post(client).status_code == 201
    assert is_replay(post(client))
    assert Payment.objects.get().amount == 5


def test_a_view_that_calls_other_protected_views(browser, serve, atomic_requests):
    """A batch: each inner operation is one of its own, and what one of them refuses is undone alone."""

    @idempotent(operation="refuse")
    def refuse(request):
        Payment.objects.create(amount=1)
        return answer(request, {}, 422)

    @idempotent(operation="pay")
    def pay(request):
        return make_payment(request)

    def batch(request):
        handle = request.idempotency
        statuses = [refuse(request).status_code, pay(request).status_code]
        assert request.idempotency is handle
        return answer(request, statuses)

    serve(idempotent(batch))

    first, second = post(browser), post(browser)

    assert first.json() == second.json() == [422, 201]
    assert is_replay(second)
    assert [payment.amount for payment in Payment.objects.all()] == [10]
    assert {record.operation for record in IdempotencyRecord.objects.all()} == {"POST act/", "pay"}


def test_an_inner_error_that_the_outer_handler_catches(browser, serve, atomic_requests):
    """It is rolled back to the inner operation's savepoint, and the outer one goes on."""

    @idempotent(operation="fail")
    def fail(request):
        Payment.objects.create(amount=1)
        raise LookupError

    def handler(request):
        with pytest.raises(LookupError):
            fail(request)
        return make_payment(request)

    serve(idempotent(handler))

    assert post(browser).status_code == 201
    assert is_replay(post(browser))
    assert [payment.amount for payment in Payment.objects.all()] == [10]
