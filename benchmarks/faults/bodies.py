"""The bodies in which a client sends a payment. A form or a CSV that is cut off is often a whole one, of less."""

import json
from collections.abc import Callable
from typing import Any

BOUNDARY = "faults"
ROWS = 10  # of a CSV, which share the amount

Data = dict[str, Any]


def as_json(data: Data) -> tuple[str, bytes]:
    return "application/json", json.dumps(data).encode()


def as_csv(data: Data) -> tuple[str, bytes]:
    row = f"{data['reference']},{data['amount'] // ROWS}\n"
    return "text/csv", (row * ROWS).encode()


def as_form(data: Data) -> tuple[str, bytes]:
    return "application/x-www-form-urlencoded", "&".join(f"{name}={value}" for name, value in data.items()).encode()


def as_multipart(data: Data) -> tuple[str, bytes]:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in data.items()
    ]
    return f"multipart/form-data; boundary={BOUNDARY}", f"{''.join(parts)}--{BOUNDARY}--\r\n".encode()


Spelling = Callable[[Data], tuple[str, bytes]]  # media type and body
ALL: tuple[Spelling, ...] = (as_json, as_csv, as_form, as_multipart)


def data_in(request: Any) -> Data:
    """The data in *request*, Django's. Raises `ValueError` or `KeyError` for a body that is none of ours."""
    match request.content_type:
        case "application/x-www-form-urlencoded" | "multipart/form-data":
            fields = request.POST
            return {"reference": fields["reference"], "amount": int(fields["amount"]), "note": fields.get("note", "")}
        case "text/csv":
            rows = [line.split(",") for line in body_of(request).decode().splitlines() if line.count(",") == 1]
            return {"reference": rows[0][0], "amount": sum(int(amount or 0) for _, amount in rows)}
        case _:
            data: Data = json.loads(body_of(request))
            return data


def body_of(request: Any) -> bytes:
    """The body, read past Django if it has no length: Django takes such a body for an empty one."""
    body: bytes = request.body or (request.META["wsgi.input"].read() if "CONTENT_LENGTH" not in request.META else b"")
    return body
