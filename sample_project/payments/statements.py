"""What was booked on an account in a month, as a file."""

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .models import Account, Charge, Deposit, Refund, Transfer

FEE = 100  # minor units


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    at: datetime
    text: str
    amount: int  # minor units; negative where money left the account


def bookings(account: Account, month: str) -> list[Booking]:
    """What moved *account*'s money in *month* (`2026-11`, in UTC), in its order."""
    first = datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    within = {"created_at__gte": first, "created_at__lt": after}

    charges = Charge.objects.filter(account=account, status=Charge.Status.SUCCEEDED, **within)
    refunds = Refund.objects.filter(charge__account=account, **within).select_related("charge")
    found = [Booking(at=each.created_at, text=each.reference, amount=-each.amount) for each in charges]
    found += _credits(refunds, lambda refund: f"refund of {refund.charge.reference}")
    found += _credits(Deposit.objects.filter(account=account, **within), lambda deposit: deposit.invoice)
    found += _credits(Transfer.objects.filter(target=account, **within), lambda transfer: "transfer in")
    outgoing = Transfer.objects.filter(source=account, **within)
    found += [Booking(at=each.created_at, text="transfer out", amount=-each.amount) for each in outgoing]
    return sorted(found, key=lambda booking: (booking.at, booking.text))


def _credits(rows: Iterable[Any], text: Callable[[Any], str]) -> list[Booking]:
    return [Booking(at=row.created_at, text=text(row), amount=row.amount) for row in rows]


def as_csv(rows: Iterable[Booking]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["at", "text", "amount"])
    writer.writerows([row.at.isoformat(timespec="seconds"), row.text, row.amount] for row in rows)
    return file.getvalue().encode()


def as_zip(rows: Iterable[Booking]) -> bytes:
    """The same in an archive, whose bytes do not depend on the clock."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("statement.csv"), as_csv(rows), zipfile.ZIP_DEFLATED)
    return file.getvalue()


# By the name that a caller asks for: the media type, and what writes the file.
FILES: Mapping[str, tuple[str, Callable[[Iterable[Booking]], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "zip": ("application/zip", as_zip),
}


def reference(month: str) -> str:
    """The reference of the charge for a statement's fee."""
    return f"statement {month}"


def disposition(month: str, file: str) -> str:
    """The header that gives the file its name."""
    return f'attachment; filename="statement-{month}.{file}"'
