"""
The pages for people: a form, protected by the middleware like the API's views. Its key is in a hidden field, which the
template makes.

Nothing in the view depends on it: a double click or the back button gets the first answer's redirect.
"""

from typing import Any, cast

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.defaults import page_not_found

from . import ledger
from .models import Account, Charge


class PaymentForm(forms.Form):
    account = forms.ModelChoiceField(Account.objects.none())
    amount = forms.IntegerField(min_value=1, max_value=1_000_000, help_text="In minor units: cents.")
    reference = forms.CharField(max_length=64)

    def __init__(self, *args: Any, owner: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        account = cast("forms.ModelChoiceField[Account]", self.fields["account"])
        account.queryset = Account.objects.filter(owner=owner)


@login_required
def pay(request: HttpRequest) -> HttpResponse:
    """Charge an account. A decline is recorded too, so it redirects like a success; only errors show the form again."""
    user = cast(User, request.user)
    form = PaymentForm(request.POST or None, owner=user)
    if request.method == "POST" and form.is_valid():
        charge = ledger.charge(**form.cleaned_data)
        if charge.status == Charge.Status.SUCCEEDED:
            messages.success(request, f"{charge.reference} is paid.")
        else:
            messages.error(request, f"{charge.reference} was declined: there is not enough on the account.")
        return redirect("pay")
    charges = Charge.objects.filter(account__owner=user).select_related("account")[:10]
    return render(request, "payments/pay.html", {"form": form, "charges": charges})


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 for a path that no route matches: JSON in the API, like that of an object which is not there."""
    if request.path.startswith("/api/"):
        return JsonResponse({"detail": "Not found."}, status=404)
    return page_not_found(request, exception)
