"""`manage.py idempotency_audit`: every unsafe endpoint, and how it is protected."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import translation

from django_idempotency.exceptions import PolicyError
from django_idempotency.operations import audit
from django_idempotency.operations.audit import Endpoint
from django_idempotency.operations.presentation import visible


class Command(BaseCommand):
    """Thin over `operations.audit`."""

    help = (
        "List every unsafe endpoint of the URLconf, how it is protected, or why not. With --baseline, fail if one is"
        " unprotected that the file does not name. Exit codes: 0 listed; 1 a new unprotected endpoint, or an error;"
        " 2 a bad argument."
    )
    requires_system_checks = ()  # a bad setting is reported below, and warnings would spoil the JSON of a pipe

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--format", choices=("table", "json"), default="table", help="Default: table.")
        parser.add_argument(
            "--urlconf",
            action="append",
            metavar="MODULE",
            help="A URLconf to list, for projects that set request.urlconf; can be repeated. Default: ROOT_URLCONF.",
        )
        parser.add_argument("--baseline", metavar="FILE", help="Accept the unprotected endpoints that FILE names.")
        parser.add_argument(
            "--update-baseline", action="store_true", help="Write to FILE what is unprotected now, to accept it."
        )

    def handle(self, **options: Any) -> None:
        baseline: str | None = options["baseline"]
        if options["update_baseline"] and baseline is None:
            raise CommandError("--update-baseline needs --baseline FILE.", returncode=2)
        found = [each for urlconf in options["urlconf"] or [None] for each in _endpoints(urlconf)]
        self.stdout.write(audit.as_json(found) if options["format"] == "json" else _table(found))
        if baseline is None:
            return
        if options["update_baseline"]:
            self._update(Path(baseline), found)
        else:
            self._compare(Path(baseline), found)

    def _update(self, path: Path, found: list[Endpoint]) -> None:
        if path.exists():
            _read(path)  # no other file is overwritten
        try:
            path.write_text(audit.write_baseline(found), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
        self.stderr.write(f"{path} accepts {len(audit.unprotected(found))} unprotected endpoints now.")

    def _compare(self, path: Path, found: list[Endpoint]) -> None:
        accepted = _read(path)
        there = {each.identity: each for each in audit.unprotected(found)}
        if gone := sorted(accepted - there.keys()):
            self.stderr.write(
                f"{path} names {len(gone)} that are protected or gone by now (--update-baseline takes them out):"
                f" {', '.join(gone)}."
            )
        if new := [each for identity, each in there.items() if identity not in accepted]:
            lines = [f"  {each.identity} ({each.view}): {each.why}" for each in new]
            raise CommandError(
                "\n".join(
                    [
                        f"{len(new)} unprotected endpoint(s) that {path} does not accept:",
                        *map(visible, lines),
                        "Protect each, or mark it with @idempotency_exempt. To accept them as they are:",
                        f"  manage.py idempotency_audit --baseline {path} --update-baseline",
                    ]
                )
            )


def _endpoints(urlconf: str | None) -> list[Endpoint]:
    try:
        # i18n_patterns spell a route in the language of the moment, and a baseline names it for good.
        with translation.override(settings.LANGUAGE_CODE):
            return list(audit.endpoints(urlconf))
    except PolicyError as error:
        raise CommandError(str(error)) from error
    except Exception as error:  # of the project's modules
        name = urlconf or getattr(settings, "ROOT_URLCONF", None)
        raise CommandError(f"The URLconf {name!r} cannot be read: {type(error).__name__}: {error}") from error


def _read(path: Path) -> frozenset[str]:
    try:
        return audit.read_baseline(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CommandError(f"{path} is not there. --update-baseline writes it.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    except audit.BaselineError as error:
        raise CommandError(f"{path} is no baseline of this command: {error}.") from error


def _table(found: list[Endpoint]) -> str:
    rows = [("METHOD", "ROUTE", "VIEW", "PROTECTION", "GUARDS", "OPTIONS, OR WHY NOT")]
    for each in found:
        notes = [f"{name}={value}" for name, value in each.options.items()]
        rows.append(
            (
                each.method,
                each.route,
                each.view,
                each.protection,
                ", ".join(each.guards) or "-",
                each.why or ", ".join(notes) or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows
    ]
    counts = audit.summary(found)
    total = (
        f"{counts['endpoints']} unsafe endpoints: {counts['protected']} protected, {counts['exempt']} left out on"
        f" purpose, {counts['idempotent']} idempotent by definition, {counts['unprotected']} unprotected."
    )
    return "\n".join([*map(visible, lines), "", total])
