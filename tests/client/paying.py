"""
A process that pays an order: `python -m tests.client.paying JAR URL TOKEN`. Prints the answer, as a line of JSON.

It knows no key but the jar's, so that it can be killed and started again.
"""

import json
import sys

import requests

from django_idempotency.client import KeyJar
from django_idempotency.client.requests import IdempotentAdapter


def main(path: str, url: str, token: str) -> None:
    session = requests.Session()
    session.mount(url, IdempotentAdapter())
    with KeyJar(path).action("pay order 17") as key:
        answer = session.post(
            url,
            json={"amount": 1, "currency": "EUR", "reference": "order 17"},
            headers={"Authorization": token, "Idempotency-Key": key},
        )
        said = {
            "status": answer.status_code,
            "id": answer.json()["id"],
            "replayed": answer.headers.get("Idempotency-Replayed"),
        }
        sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
