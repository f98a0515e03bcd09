"""
One signal for each decision, sent when it is final: after the request's transaction, if the engine opened it.

The arguments are `sender=Identity`, `identity` (the `Identity` concerned) and `using` (the alias of the database in
whose transaction the decision was made, or None for a store outside the databases). An exception of a receiver is
logged and does not affect the request.
"""

from django.dispatch import Signal

operation_executed = Signal()  # + record: the handler ran, and its answer is stored
operation_replayed = Signal()  # + record: answered from the record
operation_refused = Signal()  # + refusal: a `Refusal`
operation_forgotten = Signal()  # the handler ran, and its answer or its error is not stored
operation_unsettled = Signal()  # + error: the outcome is unknown until an operator settles it
