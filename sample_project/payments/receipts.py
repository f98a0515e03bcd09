"""
Receipts by e-mail, after the commit.

No transaction covers an e-mail, so none is sent in a request: a task is enqueued there, which is a row of the same
database. It commits with the charge, or not at all, and `manage.py db_worker` does what it says.
"""

from django.core.mail import EmailMessage

from .models import Charge

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task


@task
def send_receipt(charge_pk: int) -> None:
    """Mail the owner of the account. If the worker is killed here, the mail may be sent twice, with the same id."""
    charge = Charge.objects.select_related("account__owner").get(pk=charge_pk)
    EmailMessage(
        subject=f"Receipt for {charge.reference}",
        body=f"{charge.amount} {charge.currency} (in minor units) were taken from {charge.account.name}.",
        to=[charge.account.owner.email],
        headers={"Message-ID": f"<charge-{charge.pk}@payments.example>"},
    ).send()
