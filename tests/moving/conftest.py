from tests.app.serving import serve
from tests.operations.redis_store import away, keys

__all__ = ["away", "keys", "serve"]
