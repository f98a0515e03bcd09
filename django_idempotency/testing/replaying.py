"""`@replayed`: an existing test of a view also tests its replays, without a change in it."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction
from django.test import Client
from django.test.client import FakePayload

from django_idempotency.adapters.plain import is_answer
from django_idempotency.testing.arguments import texts
from django_idempotency.testing.calls import Reply, make_reply, new_key, send
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE
from django_idempotency.testing.findings import OUTSIDE, PROTECT, Finding, NotProved, find_reply_differences
from django_idempotency.testing.observe.requests import Observer

METHODS = ("POST", "PATCH")
OF_CLASS = (staticmethod, classmethod)

Test = TypeVar("Test", bound=Callable[..., Any] | type)


@overload
def replayed(test: Test, /) -> Test: ...
@overload
def replayed(**options: Any) -> "Replaying": ...
def replayed(test: Any = None, /, **options: Any) -> Any:
    """
    Let a test's clients send each request that its view answers with success a second time, with the same key: the
    answer must be a replay of the first, and change nothing. The test itself sees the first answer.

    On a test, on a class of tests, or as a context manager: `@replayed`, `@replayed(skip=["/login/"])`,
    `with replayed():`. It concerns Django's client and DRF's. A request that carries a key keeps it, any other gets
    one. The options are the fields of `Replaying`.

    Raises `NotProved`, an `AssertionError`, at a request that was not replayed; and at the end if no request was sent
    again (but not for a class, of which some tests may only read). `TypeError` for an async test, whose client is
    another one; those of a class are left as they are.
    """
    replaying = Replaying(**options)
    return replaying if test is None else replaying(test)


@dataclass(kw_only=True)
class Replaying(ContextDecorator):
    """
    Sends the requests of all clients twice while it is entered.

    *methods* are sent again, except to the paths *skip* and all paths below them; *header* carries the key. *using*,
    *ignore* and *limit* are those of `assert_idempotent`. *demand* is whether at least one has to be sent again.
    """

    methods: str | Iterable[str] = METHODS
    skip: str | Iterable[str] = ()
    header: str = "Idempotency-Key"
    using: str | Iterable[str] | None = None
    ignore: str | Iterable[str] = ()
    limit: int = LARGEST_TABLE
    demand: bool = True
    count: int = field(default=0, init=False)  # of requests that were sent again

    def __post_init__(self) -> None:
        self.methods = frozenset(method.upper() for method in texts(self.methods))
        self.skip = texts(self.skip)

    def _recreate_cm(self) -> "Replaying":
        return replace(self)

    def __call__(self, test: Any) -> Any:
        if isinstance(test, OF_CLASS):
            return type(test)(self(test.__func__))
        if iscoroutinefunction(test):
            raise TypeError(
                "@replayed repeats what a Client sends, and an async test has an AsyncClient: make it a def."
            )
        if not isinstance(test, type):
            return super().__call__(test)
        each = replace(self, demand=False)
        for name in [name for name in dir(test) if name.startswith("test")]:
            method, found = getattr(test, name), inspect.getattr_static(test, name)
            if callable(method) and not iscoroutinefunction(method):
                setattr(test, name, each(found if isinstance(found, OF_CLASS) else method))
        return test

    def __enter__(self) -> "Replaying":
        self._real = real = Client.request

        def request(client: Client, /, **environ: Any) -> Any:
            return self._twice(client, environ) if self._concerns(environ) else real(client, **environ)

        Client.request = request  # type: ignore[assignment]
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        Client.request = self._real  # type: ignore[method-assign]
        if kind is None and self.demand and not self.count:
            methods = ", ".join(sorted(self.methods))
            raise NotProved(
                "Nothing was replayed",
                [Finding(f"The test sent no {methods} that was answered with success, so none was sent again.")],
            )

    def _concerns(self, environ: dict[str, Any]) -> bool:
        path = str(environ.get("PATH_INFO", ""))
        below = (each.rstrip("/") for each in self.skip if each)
        return str(environ.get("REQUEST_METHOD")) in self.methods and not any(
            path.rstrip("/") == each or path.startswith(f"{each}/") for each in below
        )

    def _twice(self, client: Client, environ: dict[str, Any]) -> Any:
        source = environ.pop("wsgi.input", None)
        body = b"" if source is None else source.read()
        environ.setdefault("HTTP_" + self.header.upper().replace("-", "_"), new_key())

        def request() -> Any:
            return self._real(client, **environ, **({} if source is None else {"wsgi.input": FakePayload(body)}))

        response = request()
        first = make_reply(response)
        if response.status_code >= 400 or first.replayed or not is_answer(response.status_code):
            return response  # it was not stored, or is a replay already
        self.count += 1
        observer = Observer(using=self.using, ignore=self.ignore, limit=self.limit)
        again = observer.watch(lambda: send(lambda key: request(), None))
        findings = self._judge(first, again.reply, tuple(again.seen.lines()))
        if findings:
            name = f"{environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')}"
            raise NotProved(f"{name}{f' ({first.view})' if first.view else ''} is not replayed", findings)
        return response

    def _judge(self, first: Reply, again: Reply, changes: tuple[str, ...]) -> list[Finding]:
        findings = []
        if not again.replayed:
            remedy = f"{PROTECT} Name a path that needs no protection in `skip`."
            findings.append(Finding("The same request with the same key ran again.", (str(again), *changes), remedy))
        elif changes:
            findings.append(Finding("The replay changed something all the same.", changes, OUTSIDE))
        if again.replayed and (differences := [*find_reply_differences(first, again, ignore=self.ignore)]):
            findings.append(Finding("The replay differs from the first answer.", tuple(differences)))
        return findings
