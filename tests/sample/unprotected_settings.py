"""The sample project with none of its POSTs protected. The demo must not be content with it."""

from sample_project.settings import *  # noqa: F403
from sample_project.settings import IDEMPOTENCY

IDEMPOTENCY = {**IDEMPOTENCY, "METHODS": ("PUT",)}
GATEWAY_TIMEOUT = (2, 2)  # seconds; here the gateway is slow each time that it is asked
