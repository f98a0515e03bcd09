"""Ready-made values for the option `should_store`."""

from typing import Any

__all__ = ["redirects"]


def redirects(response: Any) -> bool:
    """Is *response* a redirect? For forms, which are shown again if they have errors, with status 200."""
    return 300 <= response.status_code < 400 and "Location" in response.headers
