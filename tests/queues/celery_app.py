"""A project's Celery application: `celery -A tests.queues.celery_app worker`."""

import django
from celery import Celery
from celery.signals import task_postrun
from django.apps import apps

if not apps.ready:
    django.setup()

from tests.queues import work

app = Celery("tests", broker=work.REDIS_URL, set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "global_keyprefix": work.PREFIX,
        "visibility_timeout": 2,  # seconds
        "unacked_restore_interval": 1,  # seconds between two looks for what is not acknowledged
        "unacked_restore_throttle": 1,  # each look is one, not only each tenth
    },
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
)


pay = app.task(
    acks_late=True,
    reject_on_worker_lost=True,
    autoretry_for=work.AGAIN,
    max_retries=None,
    retry_backoff=1,
    retry_backoff_max=2,
)(work.pay)


@task_postrun.connect
def before_the_acknowledgement(state, retval, **kwargs):
    work.arrive("done", state=state, value=retval if state == "SUCCESS" else type(retval).__name__)
