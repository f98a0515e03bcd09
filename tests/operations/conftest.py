from tests.app.serving import background, browser, client, edge, gate, protect, serve
from tests.operations.pages import operator

__all__ = ["background", "browser", "client", "edge", "gate", "operator", "protect", "serve"]
