"""A project's actors: `dramatiq tests.queues.dramatiq_app`."""

import django
import dramatiq
from django.apps import apps
from dramatiq.brokers.redis import RedisBroker

if not apps.ready:
    django.setup()

from django_idempotency.exceptions import OutcomeUnknown
from tests.queues import work


class Report(dramatiq.Middleware):
    """Its last hook before the acknowledgement."""

    def after_process_message(self, broker, message, *, result=None, exception=None):
        work.arrive("done", state="SUCCESS" if exception is None else "RETRY", value=result)


broker = RedisBroker(
    url=work.REDIS_URL,
    namespace=work.PREFIX,
    heartbeat_timeout=2000,  # milliseconds
    maintenance_chance=1_000_000,  # each command looks for the messages of dead workers
)
broker.add_middleware(Report())


def is_worth_another(retries, error):
    return isinstance(error, work.AGAIN) or retries < 20


pay = dramatiq.actor(
    broker=broker,
    retry_when=is_worth_another,
    min_backoff=500,
    max_backoff=2000,
    throws=(OutcomeUnknown,),
)(work.pay)
