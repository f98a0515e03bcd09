"""Card payments: the gateway's client, and the three possible results of a call."""

from typing import Any, cast

import requests
from django.conf import settings
from urllib3.exceptions import MaxRetryError, NewConnectionError

ANSWERS = (201, 402, 400)  # charged; declined; not a payment, so that nothing was done


class GatewayUnreachable(Exception):
    """Nothing was sent, so no card was charged."""


class GatewaySilent(Exception):
    """The gateway was called and has not answered, so it is not known whether the card was charged."""


def charge(order: dict[str, Any], *, key: str | None) -> tuple[int, dict[str, Any]]:
    """
    Charge a card, once for each *key* that the gateway knows; the status and the content of its answer.

    Raises `GatewayUnreachable` and `GatewaySilent`.
    """
    headers = {} if key is None else {"Idempotency-Key": key}
    try:
        # A new connection for each call: if a kept connection breaks, it is not known whether the request arrived.
        response = requests.post(
            f"{settings.GATEWAY_URL}/payments", json=order, headers=headers, timeout=settings.GATEWAY_TIMEOUT
        )
        answer = response.json()
    except requests.RequestException as error:
        if is_connected(error):
            raise GatewaySilent(str(error)) from error
        raise GatewayUnreachable(str(error)) from error
    if response.status_code not in ANSWERS:
        raise GatewaySilent(f"The gateway answered {response.status_code}.")
    return response.status_code, cast(dict[str, Any], answer)


def is_connected(error: requests.RequestException) -> bool:
    """Was there a connection when *error* was raised? Then the request may have been sent."""
    if isinstance(error, requests.ConnectTimeout):
        return False
    cause = error.args[0] if error.args else None
    return not (isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError))
