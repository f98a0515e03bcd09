"""A small site with forms, and the admin with its own: what the tests of forms and of the browser visit."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template import engines
from django.urls import path
from django.utils.decorators import method_decorator
from django.views.generic import FormView

from django_idempotency import Policy, idempotent
from django_idempotency.admin import IdempotencyAdminMixin
from tests.app.models import Child, Payment

FORM = """<!DOCTYPE html><html lang="en"><title>Pay</title>
{% load idempotency %}{% for message in messages %}<p class="message">{{ message }}</p>{% endfor %}
<form method="post" enctype="{{ enctype|default:'application/x-www-form-urlencoded' }}">{% csrf_token %}
{% idempotency_key %}{{ form }}<button name="how" value="card">Pay</button></form></html>"""
DONE = """<!DOCTYPE html><html lang="en"><title>Paid</title>
{% for message in messages %}<p class="message">{{ message }}</p>{% endfor %}<p id="paid">{{ payments }}</p></html>"""


class PaymentForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Payment
        fields = ["amount", "reference"]
        widgets = {"reference": forms.Textarea}

    def clean_amount(self) -> int:
        if self.cleaned_data["amount"] <= 0:
            raise forms.ValidationError("More than nothing.")
        return self.cleaned_data["amount"]


class UploadForm(forms.Form):
    file = forms.FileField()


def page(request: HttpRequest, template: str, **context: Any) -> HttpResponse:
    return HttpResponse(engines["django"].from_string(template).render(context, request))


def pay(request: HttpRequest) -> HttpResponse:
    """As most form views are: shown, shown again with its errors, or done and left by a redirect."""
    form = PaymentForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        payment = form.save()
        messages.success(request, f"Payment of {payment.amount}")
        return HttpResponseRedirect(f"/done/{payment.pk}/")
    return page(request, FORM, form=form)


@method_decorator(idempotent, name="post")
class PayView(FormView):  # type: ignore[type-arg]
    form_class = PaymentForm
    template_name = "unused"

    def render_to_response(self, context: dict[str, Any], **options: Any) -> HttpResponse:
        return page(self.request, FORM, form=context["form"])

    def form_valid(self, form: Any) -> HttpResponse:
        return HttpResponseRedirect(f"/done/{form.save().pk}/")


@idempotent
def upload(request: HttpRequest) -> HttpResponse:
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        return HttpResponseRedirect(f"/done/{Payment.objects.create(amount=form.cleaned_data['file'].size).pk}/")
    return page(request, FORM, form=form, enctype="multipart/form-data")


def done(request: HttpRequest, pk: int = 0) -> HttpResponse:
    return page(request, DONE, payments=Payment.objects.count())


class PaymentAdmin(IdempotencyAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]
    fields = ["amount", "reference"]


class ChildAdmin(IdempotencyAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]
    """Its form opens that of a payment in a pop-up window."""

    idempotency = Policy(key_format="uuid")


site = admin.AdminSite("forms-admin")
site.register(Payment, PaymentAdmin)
site.register(Child, ChildAdmin)

urlpatterns = [
    path("pay/", idempotent(pay)),
    path("bare/", pay),
    path("members/", login_required(idempotent(pay))),
    path("class/", PayView.as_view()),
    path("upload/", upload),
    path("done/<int:pk>/", done),
    path("admin/", site.urls),
]
