"""
The decorators around a user's code. The only room that knows both the adapters and the engine.

Read `views` (`@idempotent`), `functions` (`@once`), then `order` (where a decorator may stand), `introspection` (what a
callable wraps), `installation` (E008) and `routes` (which views of the URLconf are protected).
"""
