"""A module that nothing imports but the dotted path of an option, and that decorates a function when it is imported."""

from django_idempotency import once


def scope(event) -> str:
    return "tenant"


@once("invoice.refunded", key=str, store="redis")
def on_invoice_refunded(event):
    """Whose store is not configured."""
