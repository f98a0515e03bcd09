"""
One adapter per framework, each with the same four verbs. No adapter knows the engine, and the engine knows no adapter.

`read` turns a request into an attempt or a refusal, `capture` a response into an answer, `replay` a record into a
response, and `refuse` a refusal into an error. Read `attempts`, `plain`, then `drf`, which builds on them, then `body`.
"""
