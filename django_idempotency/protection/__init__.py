"""
Everything that stands around a user's code. The only room that knows both the adapters and the engine.

Read `views` (`@idempotent`), `functions` (`@once`), then `order` (where the decorator may stand), `introspection` (what
a callable wraps), `installation` (E008) and `routes` (which views of the URLconf are protected, for checks and
operators). For the middleware: `by_default` (what it does), `exemptions` (what it leaves out), `placement` (where
protection goes in a view), `handlers` (handlers that decide who may call them).
"""
