"""
One signal for each decision, sent once it is final, and outside the request's transaction if ours is the outermost.

Each is sent with `sender=Identity`, `identity`, the `Identity` it is about, and `using`, the alias of the database in
whose transaction it was decided, None for a store outside the databases. A receiver that raises is logged and harms no
request.
"""

from django.dispatch import Signal

operation_executed = Signal()  # + record: the handler ran, and its answer is stored
operation_replayed = Signal()  # + record: answered from the record
operation_refused = Signal()  # + refusal: a `Refusal`
operation_forgotten = Signal()  # the handler ran, and nothing is stored, as its answer or its error asks
operation_unsettled = Signal()  # + error: its outcome is unknown, until an operator settles it
