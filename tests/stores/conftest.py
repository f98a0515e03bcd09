from tests.app.serving import background, browser, client, edge, gate, protect, serve

__all__ = ["background", "browser", "client", "edge", "gate", "protect", "serve"]
