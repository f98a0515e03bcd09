"""
The system checks: what is wrong and can be known before the first request. One file per subject, one id per message.

Read `settings` (on which all others rest), `views` (of the URLconf) with `callers` (who calls them), `functions` (of
`@once`) with `late` and `phases`, `stores` (which check themselves: their ids are given in `stores/*/checks.py`),
`middleware`, and `environment` (what is around the app).

E001 the setting      E002 a store           E003 a view's options      E004 a wrong place
E005 a Policy without protection             E006 an unsupported database
E007 a store beside the view's database      E008 the app is missing (`protection/installation.py`)
E009 a cluster with several writers          E010 a table without transactions
E011 two functions with one operation         E012 an alias that is not django-redis's
E013 a Redis that is too old                  E014 a store for tests, outside of them
E015 a middleware at a wrong place            E016 a pattern without a route
E017 tombstones in a store without them       E018 phases in a store without runs
E019 ATOMIC_REQUESTS around phases           E020 ATOMIC_REQUESTS around an async view
E021 encryption
W001 SQLite without IMMEDIATE                W002 anonymous requests share a scope
W003 a login view                            W004 the table is missing
W005 a server that takes no such response    W006 a decorator without effect
W007 a server that does not answer            W011 IGNORE_EXCEPTIONS, which does not hold
W012 a Redis without a timeout                W013 a Redis that does not answer
W014 a Redis that evicts                      W015 a Redis that keeps nothing on disk
W016 ATOMIC_REQUESTS around a store beside the database
W017 callers without a user, by a credential that may be renewed
W018 a view that the middleware leaves out   W019 keys that are taken for longer than they are remembered
W020 a former route whose path is not known  W021 observe mode that counts nothing
W022 a pattern that names a translated route in some languages only
W023 an OpenAPI document that does not tell of keys
W024 metrics without their folder
W025 records whose key is gone
W027 an engine that was never run

I001 no admin         I002 observe mode
W008 permissions are missing
W009 the key is no allowed header             W010 the replay header is not exposed

A URLconf that cannot be imported is reported by Django's own check. A Redis server is asked by `manage.py check
--deploy`.
"""

from django_idempotency.checks import environment, functions, middleware, settings, stores, views

__all__ = ["environment", "functions", "middleware", "settings", "stores", "views"]
