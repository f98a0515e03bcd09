from tests.app.serving import background, gate, serve
from tests.operations.redis_store import away, keys

__all__ = ["away", "background", "gate", "keys", "serve"]
