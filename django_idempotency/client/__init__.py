"""
The calling side: one idempotency key for each action, kept while a request is sent until it has a final answer.

`httpx` and `requests` are the edges, each with its library; `decisions` knows neither a clock nor a network. Nothing
here needs Django's settings. The edges are for servers that honour the key: any other executes a request twice.
"""

from django_idempotency.client.calls import CallPolicy
from django_idempotency.client.decisions import RETRIED
from django_idempotency.client.keys import KeyJar, new_key

__all__ = ["RETRIED", "CallPolicy", "KeyJar", "new_key"]
