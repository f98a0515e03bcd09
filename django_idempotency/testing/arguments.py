"""What the kit's functions take as arguments."""

from collections.abc import Iterable


def texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """*given*, where one text stands for itself: its characters would be patterns that leave out everything."""
    return (given,) if isinstance(given, str) else tuple(given)
