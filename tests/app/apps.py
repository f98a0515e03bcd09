"""The test project's app. `FOLD=0` sends BEGIN and COMMIT by themselves on PostgreSQL, in every process of a run."""

import os

from django.apps import AppConfig


class TestsConfig(AppConfig):
    name = "tests.app"

    def ready(self) -> None:
        if os.environ.get("FOLD") == "0":
            from django_idempotency.stores.database import folded

            folded.can_fold = lambda connection: False
