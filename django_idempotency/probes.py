"""What a probe answers if it has no result: a callable that asks another system what became of an operation."""

from enum import Enum

__all__ = ["NOT_DONE", "UNSURE"]


class _Answer(Enum):
    NOT_DONE = "NOT_DONE"
    UNSURE = "UNSURE"

    def __repr__(self) -> str:
        return self.value


NOT_DONE = _Answer.NOT_DONE
"""The other system has not done it and will not, so it may be done now."""

UNSURE = _Answer.UNSURE
"""Nobody can tell (yet)."""
