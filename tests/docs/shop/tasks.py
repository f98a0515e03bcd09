"""Tasks of some queue: what a view sends."""


def send_receipt(payment: int) -> None:
    """Mail the receipt of *payment*, a primary key."""
