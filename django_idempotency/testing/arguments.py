"""Arguments of the kit's functions."""

from collections.abc import Iterable


def texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """*given* as a tuple. One string is one item, because its characters would be patterns that match everything."""
    return (given,) if isinstance(given, str) else tuple(given)
