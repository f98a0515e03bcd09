"""
A conformance kit for any server, whatever its language: `python -m django_idempotency.conformance URL --request FILE`.

It knows a server by its answers alone, so it imports nothing else of this package, and neither Django nor settings.

`requests_file` reads what to send, `wire` sends it, `session` adds keys and counts effects. An experiment of `checks`
sends requests once, and its checks judge what was seen. `run` runs them all, `report` writes the result.
"""
