import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from tests.app.models import Payment
from tests.app.serving import background, edge, gate, protect, serve

__all__ = ["background", "edge", "gate", "protect", "serve"]

KEY = "018f6e4a-7b7a-7c4e-9d2f-2f4d1c9a0b1c"
FIELD = re.compile(rb'name="_idempotency_key" value="([^"]+)"')


def key_in(response: Any) -> str:
    """The key of the only form in *response*."""
    [key] = FIELD.findall(response.content)
    return key.decode()


@pytest.fixture
def visitor() -> Client:
    """A browser's user; exceptions of views become 500, as on a server."""
    return Client(raise_request_exception=False, headers={"Accept": "text/html,*/*;q=0.8"})


@pytest.fixture
def submit(visitor) -> Callable[..., Any]:
    """Send a form with these fields and the key."""

    def submit(url: str = "/pay/", key: Any = KEY, client: Client = visitor, **fields: Any) -> Any:
        headers = fields.pop("headers", {})
        data = {"amount": "10", "reference": "a\nb", **fields} | ({} if key is None else {"_idempotency_key": key})
        return client.post(url, urlencoded(data), content_type="application/x-www-form-urlencoded", headers=headers)

    return submit


def urlencoded(data: dict[str, Any]) -> str:
    from django.utils.http import urlencode

    return urlencode(data, doseq=True)


def amounts() -> list[int]:
    return list(Payment.objects.order_by("pk").values_list("amount", flat=True))
