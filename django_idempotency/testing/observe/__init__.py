"""
What one request does. Rule: everything is observed in this process, and the observed code is not changed for it.

Read `guards` (effects that no transaction covers), `addresses` (which connections are the project's own),
`interruptions` (a request that fails at its end) and `requests` (databases, e-mails and caches around one request).
"""
