"""Names for parameters, the same in every process: xdist compares what its workers collected."""

import re

ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def spelt(value: object) -> str:
    """*value* as repr() spells it, without the address that it has in this process."""
    return ADDRESS.sub("", repr(value))
