from tests.app.serving import serve

__all__ = ["serve"]
