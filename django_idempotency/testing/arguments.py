"""What the kit's functions take as arguments."""

from collections.abc import Iterable


def texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """*given*, or one string as a tuple: its characters would be patterns that leave out everything."""
    return (given,) if isinstance(given, str) else tuple(given)
