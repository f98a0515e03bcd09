from tests.app.serving import background, browser, client, edge, gate, protect, serve, slow_payment

__all__ = ["background", "browser", "client", "edge", "gate", "protect", "serve", "slow_payment"]
