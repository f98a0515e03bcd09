"""
A process in observe mode that kills itself in a request: `python -m tests.operations.observing DATABASE INSTANT`.

The instant is "handler" (its work is done), "before" (the statement that keeps the run) or "after" (that statement).
"""

import os
import signal
import sys

from tests.lab.origin import answer_of
from tests.proof.child import prepare


def main(database: str, instant: str) -> None:
    prepare(database)
    from django.conf import settings

    from django_idempotency import conf, idempotent
    from django_idempotency.operations import observations
    from tests.app import views
    from tests.app.urls import path

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @idempotent
    def handler(request):
        response = views.make_payment(request)
        if instant == "handler":
            die()
        return response

    def keep_first(*args, keep=observations.keep_first, **kwargs):
        if instant == "before":
            die()
        keep(*args, **kwargs)
        die()

    observations.keep_first = keep_first
    settings.ROOT_URLCONF = (path("act/", handler),)
    settings.IDEMPOTENCY = {"MODE": "observe"}
    conf.project_options.cache_clear()
    conf.resolved.cache_clear()
    answer_of("/act/", {"Idempotency-Key": "key-1"}, {"amount": 10})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
