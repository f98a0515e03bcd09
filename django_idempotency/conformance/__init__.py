"""
The conformance kit knows a server by its answers alone, and imports neither Django nor anything else of this package.

It is a program: `python -m django_idempotency.conformance URL --request FILE`. `requests_file` reads what to send,
`wire` sends it, `session` adds keys and counts effects. An experiment of `checks` sends requests once, and its checks
judge what was seen. `run` makes them all, `report` writes the result.
"""
