"""
Remembers what other code reads of a request's body under WSGI.

A middleware, an authenticator or a parser may read the stream and keep nothing. The fingerprint, which is taken after
them, must still equal that of a retry whose body was not read.
"""

from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from typing import IO, Any, cast

from django_idempotency.core.fingerprint import without_gzip_times

IN_MEMORY = 1024 * 1024  # bytes of a body that are kept in memory
OBSERVED = "django_idempotency.input"  # the key of the observed input in the WSGI environment
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class ObservedInput:
    """Wraps *stream*, a server's `wsgi.input`, and keeps what is read of it, or hashes it beyond `IN_MEMORY`."""

    def __init__(self, stream: IO[bytes], *, is_gzip: bool = False) -> None:
        self._stream = stream
        self._is_gzip = is_gzip
        self._kept = bytearray()
        self._hash: Any = None  # of a body that is too large to keep
        self._is_observing = True
        self.size = 0  # bytes read while observing
        self.is_broken = False  # the server has raised an error: what was read is not the whole body
        self._error: Exception | None = None  # that error

    def read(self, *args: Any) -> bytes:
        return self._read(self._stream.read, *args)

    def readline(self, *args: Any) -> bytes:
        return self._read(self._stream.readline, *args)

    def readlines(self, *args: Any) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # such as copy's look-ups, before __init__ has set the stream
        value = getattr(self._stream, name)
        self.stop()  # a `seek`, or a server's own method: what is read cannot be observed any more
        return value

    def stop(self) -> None:
        """Observe no longer, and forget what was read."""
        self._is_observing = False
        self._kept, self._hash, self.size = bytearray(), None, 0

    def whole(self) -> IO[bytes] | None:
        """All that was read, or None if it was not kept."""
        return BytesIO(self._kept) if self.size and self._hash is None else None

    def hash(self) -> bytes | None:
        """The SHA-256 of all that was read of a large body; None if the bytes are kept, or were not observed."""
        return None if self._hash is None else cast(bytes, self._hash.digest())

    def _read(self, read: Any, *args: Any) -> bytes:
        if self._error is not None:
            raise self._error  # a server may raise it only once, and a later reader would take a part for the whole
        try:
            data: bytes = read(*args)
        except (TypeError, ValueError):
            raise  # a wrong argument, after which the body is still there
        except Exception as error:
            self.is_broken, self._error = True, error
            raise
        if data and self._is_observing:
            self.size += len(data)
            if self._hash is not None:
                self._hash.update(data)
            else:
                self._kept += data
                if self.size > IN_MEMORY:
                    self._fold()
        return data

    def _fold(self) -> None:
        start = bytes(self._kept)
        self._kept, self._hash = bytearray(), sha256(without_gzip_times(start) if self._is_gzip else start)


def is_gzip(meta: dict[str, Any]) -> bool:
    """Whether the headers in *meta* say that the body is compressed by gzip."""
    return "gzip" in meta.get("HTTP_CONTENT_ENCODING", "").lower()


def observe(sender: object, environ: dict[str, Any] | None = None, **kwargs: object) -> None:
    """Observe the body of a request that may change something. A receiver of Django's `request_started`."""
    if environ is None or environ.get("REQUEST_METHOD") in SAFE:
        return  # ASGI has no environment: Django keeps what it reads
    stream = environ.get("wsgi.input")
    has_body = environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ
    if has_body and stream is not None:
        environ["wsgi.input"] = environ[OBSERVED] = ObservedInput(stream, is_gzip=is_gzip(environ))
