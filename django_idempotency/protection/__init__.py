"""
Everything that stands around a user's code. The only room that knows both the adapters and the engine.

Read `views` (`@idempotent`), `functions` (`@once`), then `order` (where the decorator may stand), `introspection` (what
a callable wraps), `installation` (E008) and `routes` (what of the URLconf is protected, for checks and operators). For
the middleware: `by_default` (what it does), `middleware_place`, `exemptions`, `wrapping` (what a view is made of),
`placement` (behind which guard), `handlers` (who decide). For async handlers: `awaiting`.
"""
