"""What the searches found, in words: the manual's page and `python -m tests.model` show the same."""

from collections.abc import Callable
from functools import cache

from tests.model import broken, databases, leased, phased, world
from tests.model.search import Result, search

# The right ones, each held against all that it promises; and those that a search has to refute, each with its law.
HOLDS: dict[str, Callable[[], Result]] = {
    **{name: lambda protocol=protocol: search(world.model(protocol)) for name, protocol in databases.PROTOCOLS.items()},
    "Lock, look-up, one INSERT last": lambda: search(world.model(broken.LOCK_FIRST)),
    **{
        name: lambda module=module, promise=promise: search(module.model(promise.rules, *promise.laws))
        for module in (leased, phased)
        for name, promise in module.PROMISES.items()
    },
}
REFUTED: dict[str, Callable[[], Result]] = {
    name: lambda each=each: search(world.model(each.protocol, each.law)) for name, each in broken.BROKEN.items()
} | {
    name: lambda module=module, promise=promise: search(module.model(promise.rules, *promise.laws))
    for module in (leased, phased)
    for name, promise in (module.BROKEN | module.NOT_PROMISED).items()
}


@cache
def found(name: str) -> Result:
    return (HOLDS | REFUTED)[name]()


def row(name: str) -> str:
    """A protocol that holds, as a row of a table."""
    result = found(name)
    return f"| {name} | {result.states:,} | {result.moves:,} |"


def story(name: str) -> str:
    """The shortest way in which a protocol breaks its law, a line for each move."""
    result = found(name)
    return "\n".join([*result.story, f"=> broken: {result.law}"])
