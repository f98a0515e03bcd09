"""What the summary of a run says of the fault suite, it says with the proof."""

from tests.proof.conftest import count

__all__ = ["count"]
