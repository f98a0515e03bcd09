"""The sample project with none of its POSTs protected. The demo must not be content with it."""

from sample_project.settings import *  # noqa: F403
from sample_project.settings import IDEMPOTENCY

IDEMPOTENCY = {**IDEMPOTENCY, "METHODS": ("PUT",)}
