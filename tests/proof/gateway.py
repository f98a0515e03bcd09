"""
A gateway that takes money, as a folder: each charge is a file, which no transaction takes back.

A file's name is the charge's idempotency key; its lines are what was paid for and the charge's number.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from django_idempotency.probes import NOT_DONE


def charge(folder: str | Path, key: str, reference: str, *, knows_keys: bool = True) -> str:
    """Charge for *reference*, once for each *key* if the gateway *knows_keys*. Returns the charge's number."""
    number = secrets.token_hex(8)
    made = Path(folder, key if knows_keys else f"{key} {number}")
    draft = Path(folder, f".{number}")  # of which a killed process leaves no half
    draft.write_text(f"{reference}\n{number}")
    try:
        os.link(draft, made)
    except FileExistsError:
        pass
    draft.unlink()
    return number_in(made)


def find(folder: str | Path, key: str) -> Any:
    """What became of a charge with *key*, at a gateway that knows no keys: its number or `NOT_DONE`."""
    charges = [number_in(file) for file in Path(folder).glob(f"{key} *")]
    return charges[0] if charges else NOT_DONE


def number_in(charge: Path) -> str:
    return charge.read_text().split("\n")[1]
