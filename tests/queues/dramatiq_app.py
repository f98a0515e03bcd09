"""A project's actors: `dramatiq tests.queues.dramatiq_app`."""

import django
import dramatiq
from django.apps import apps
from dramatiq.brokers.redis import RedisBroker

if not apps.ready:
    django.setup()

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

pay = dramatiq.actor(broker=broker, max_retries=None, min_backoff=500, max_backoff=2000, throws=work.NEVER)(work.pay)
