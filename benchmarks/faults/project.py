"""
The test project on a database of its own, for the processes of the fault suite. `DATABASE_URL` says which.

Run as a script it makes the tables and prints a caller's token. `FAULTS` holds JSON: `bug`, the name of a planted one;
`plain`, True for statements instead of routines; `fold`, False for BEGIN and COMMIT by themselves; `gateway`, the
folder at which a view in phases charges.
"""

import json
import os
import sys
from typing import Any

from django.conf import settings

ROWS = 2  # that handlers change when they are to deadlock


def configure(**database: Any) -> dict[str, Any]:
    """Set Django up. *database* are settings of the default one. Returns what `FAULTS` holds."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    wanted: dict[str, Any] = json.loads(os.environ.get("FAULTS", "{}"))
    settings.ROOT_URLCONF = "benchmarks.faults.urls"
    default = settings.DATABASES["default"]
    default |= database | wanted.get("database", {})
    if wanted.get("options"):
        default["OPTIONS"] = default.get("OPTIONS", {}) | wanted["options"]
    settings.DATABASES.pop("other")  # one database is enough here
    django.setup()
    if not wanted.get("fold", True):
        from django_idempotency.stores.database import folded

        folded.can_fold = lambda connection: False
    return wanted


def plant(wanted: dict[str, Any], application: Any) -> Any:
    """
    The WSGI *application*, and the store of this process, with the bug that *wanted* names.

    Connects to the database for that.
    """
    from benchmarks.faults import bugs

    if wanted.get("plain"):
        from django.db import connections

        from django_idempotency.stores import stores
        from tests.proof.child import without_routines

        without_routines(stores["default"].dialect("default"))
        connections.close_all()  # a server forks its workers after this
    if wanted.get("bug") in bugs.STORES:
        bugs.plant(wanted["bug"])
    return bugs.below(application)


def make_tables() -> str:
    """All tables, the rows to deadlock on, and a caller, whose token is returned."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from rest_framework.authtoken.models import Token

    from tests.app.models import Unique

    call_command("migrate", run_syncdb=True, verbosity=0)
    for number in range(1, ROWS + 1):
        Unique.objects.get_or_create(pk=number, defaults={"name": str(number)})
    user, _ = User.objects.get_or_create(username="payer")
    return str(Token.objects.get_or_create(user=user)[0].key)


if __name__ == "__main__":
    configure()
    sys.stdout.write(make_tables() + "\n")
