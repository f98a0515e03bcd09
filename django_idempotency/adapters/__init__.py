"""
Where requests come in: one module per framework, each with the same four verbs.

`read` makes an attempt or a refusal of a request, `capture` an answer of a response, `replay` a response of a record,
and `refuse` an error of a refusal. No adapter knows the engine, and the engine knows no adapter.

Read `plain`, then `drf`, which builds on it, then `body`, which both use.
"""
