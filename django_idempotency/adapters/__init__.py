"""
Where requests come in: one module per framework, each with the same four verbs.

`read` makes an attempt of a request, `capture` an answer of a response, `replay` a response of a record, and `refuse`
an error of a refusal. No edge knows the engine, nor the engine an edge.
"""
