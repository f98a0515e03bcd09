"""Who is examined, and how each is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).with_name("apps")
FASTAPI = ("fastapi", "uvicorn")
NEST = tuple(f"@nestjs/{part}@10" for part in ("common", "core", "platform-express"))  # what the package allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A *package* from a registry under a minimal app of its *framework*."""

    package: str
    framework: str
    app: str  # a file of `apps`
    requirements: tuple[str, ...]  # the package first
    setting: str  # what the app chose, in words

    @property
    def is_python(self) -> bool:
        return self.app.endswith(".py")


CONTENDERS = (
    Contender(
        package="idemkit",
        framework="fastapi",
        app="payments.py",
        requirements=("idemkit[asgi]", *FASTAPI),
        setting="`IdempotencyMiddleware` on its `InMemoryBackend`; `scope` is the `Authorization` header, and"
        " `require_key_for_mutations` is on.",
    ),
    Contender(
        package="fastapi-idempotency",
        framework="fastapi",
        app="payments.py",
        requirements=("fastapi-idempotency", *FASTAPI),
        setting="`IdempotencyMiddleware` on its `MemoryStore`; `scope` is the `Authorization` header. Its automatic"
        " window answers a request without a key, too, if the same came less than 10 s before.",
    ),
    Contender(
        package="fastapi-idempotency-key",
        framework="fastapi",
        app="payments.py",
        requirements=("fastapi-idempotency-key", *FASTAPI),
        setting="`IdempotencyMiddleware` on its `MemoryBackend`; `required` is on. It has no scope.",
    ),
    Contender(
        package="asgi-idempotency-header",
        framework="fastapi",
        app="payments.py",
        requirements=("asgi-idempotency-header", "redis", *FASTAPI),  # imports redis, and does not require it
        setting="`IdempotencyHeaderMiddleware` on its `MemoryBackend`. It has no scope.",
    ),
    Contender(
        package="express-idempotency",
        framework="express",
        app="express.js",
        requirements=("express-idempotency", "express"),
        setting="`idempotency()` behind the middleware that authenticates; the handler asks `isHit`. It has no scope.",
    ),
    Contender(
        package="@node-idempotency/nestjs",
        framework="@nestjs/core",
        app="nest.js",
        requirements=("@node-idempotency/nestjs", "@node-idempotency/storage-adapter-memory", *NEST, "rxjs@7"),
        setting="`@Idempotent` with `enforceIdempotency` on the handler, behind a guard that authenticates, on its"
        " memory storage. It has no scope.",
    ),
)
