"""
A payment API on FastAPI, under the package that `CONTENDER` names.

Run by an environment that has only this package, FastAPI and uvicorn; each is set up as its documentation says.
"""

import asyncio
import itertools
import os
from importlib import import_module
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Response

CALLERS = {"Token ann-0001": "ann", "Token bob-0002": "bob"}
WORK = 0.05  # seconds, so that copies overlap
numbers = itertools.count(1)
paid = 0


def caller(authorization: Annotated[str, Header()] = "") -> str:
    if authorization not in CALLERS:
        raise HTTPException(401, "Who are you?")
    return CALLERS[authorization]


app = FastAPI()


@app.post("/payments/", status_code=201)
async def pay(payment: dict[str, Any], response: Response, who: Annotated[str, Depends(caller)]) -> dict[str, Any]:
    global paid
    await asyncio.sleep(WORK)
    paid += 1
    number = next(numbers)
    response.headers["Location"] = f"/payments/{number}/"
    response.status_code = 402 if payment["amount"] > 1_000 else 201
    return {"id": number, "amount": payment["amount"], "by": who}


@app.get("/payments/")
async def count() -> dict[str, int]:
    return {"count": paid}


def by_authorization(request: Any) -> str:
    """The option `scope` of some, as their documentation advises for more than one caller."""
    return str(request.headers.get("authorization", "anonymous"))


match os.environ["CONTENDER"]:
    case "idemkit":
        idemkit = import_module("idemkit")
        app.add_middleware(
            idemkit.IdempotencyMiddleware,
            backend=idemkit.InMemoryBackend(),
            config=idemkit.HttpConfig(scope=by_authorization, require_key_for_mutations=True),
        )
    case "fastapi-idempotency":
        app.add_middleware(import_module("fastapi_idempotency").IdempotencyMiddleware, scope=by_authorization)
    case "fastapi-idempotency-key":
        package = import_module("fastapi_idempotency_key")
        app.add_middleware(package.IdempotencyMiddleware, backend=package.MemoryBackend(), required=True)
    case "asgi-idempotency-header":
        memory = import_module("idempotency_header_middleware.backends").MemoryBackend()
        app.add_middleware(import_module("idempotency_header_middleware").IdempotencyHeaderMiddleware, backend=memory)
