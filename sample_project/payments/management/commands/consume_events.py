"""`manage.py consume_events`: what a queue's worker does, with a file of JSON lines for the queue."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_idempotency.exceptions import Refusal
from sample_project.payments.invoices import on_invoice_paid

CONSUMERS = {"invoice.paid": on_invoice_paid}


class Command(BaseCommand):
    help = "Feeds events, one JSON object a line, to their consumers. Delivering a file twice books it once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, help="Left out: what comes on standard input.")

    def handle(self, *args: Any, file: Path | None, **options: Any) -> None:
        if file is None:
            self.consume(sys.stdin)
        else:
            with file.open(encoding="utf-8") as lines:
                self.consume(lines)

    def consume(self, lines: Iterable[str]) -> None:
        undelivered = []
        for line in filter(str.strip, lines):
            event = json.loads(line)
            consumer = CONSUMERS.get(event["type"])
            if consumer is None:
                self.stdout.write(f"{event['id']}: no consumer for {event['type']}")
                continue
            try:
                result = consumer(event)
            except Refusal as refusal:
                # Another worker has it in hand.
                undelivered.append(event["id"])
                self.stderr.write(f"{event['id']}: {refusal}")
            else:
                self.stdout.write(f"{event['id']}: {json.dumps(result)}")
        if undelivered:
            raise CommandError(f"Not booked, deliver again: {', '.join(undelivered)}")
