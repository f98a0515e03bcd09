"""
The digest of a request's body, which stays readable.

Code that runs later (a parser, an upload handler, the view) finds the body unread, and code that ran earlier (the CSRF
check, an authenticator) does not change the digest. Django has no public way to give a stream back, so this module
handles a request's `_stream`, `_body`, `_post` and `_files`; no other module does.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from io import SEEK_END, BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast
from weakref import finalize

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.core.handlers.wsgi import LimitedStream
from django.http import HttpRequest, QueryDict, UnreadablePostError
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.utils.datastructures import MultiValueDict

from django_idempotency.core.fingerprint import canonical_json, digest, without_field, without_gzip_times
from django_idempotency.exceptions import BodyIncomplete, BodyUnreadable, LengthRequired, Refusal

CHUNK = 64 * 1024  # bytes read at once
IN_MEMORY = 1024 * 1024  # bytes; a larger body is kept in a file
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
CSRF_FIELD = "csrfmiddlewaretoken"  # has another value on every page


def receive(request: HttpRequest) -> Refusal | None:
    """
    Read the body of *request* to its end, so that nothing runs if it did not arrive whole.

    Returns a refusal if the body is shorter than its `Content-Length`, or if it has no length and the server does not
    mark its end.
    """
    state: Any = request
    if not hasattr(request, "_stream"):
        return None  # a bare HttpRequest, made by a test
    try:
        if _is_chunked(request):
            return _receive_chunked(request)
        if not hasattr(request, "_body") and not state._read_started:
            if _is_small(request) and (request.content_type == URLENCODED or not state._stream.seekable()):
                request.body  # noqa: B018 Django keeps it
            else:
                _rewound(request)
        missing = _received(request) < _length(request)
    except OSError:  # the client or the server in front has hung up
        missing = True
    return BodyIncomplete() if missing else None


def _is_chunked(request: HttpRequest) -> bool:
    """Does the body have no length, so that Django takes it for an empty one? Only under WSGI."""
    return hasattr(request, "environ") and "HTTP_TRANSFER_ENCODING" in request.META and not _length(request)


def _receive_chunked(request: Any) -> Refusal | None:
    """Keep the body in `wsgi.input`, where a handler has to look for it, because Django shows none."""
    stream = request.environ["wsgi.input"]
    if isinstance(stream, SpooledTemporaryFile):
        return None  # was kept by an earlier call
    if not request.environ.get("wsgi.input_terminated"):
        return LengthRequired()
    request.environ["wsgi.input"] = _spool(request, stream)
    return None


def _length(request: HttpRequest) -> int:
    """The bytes that `Content-Length` announces, as Django reads it."""
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _received(request: HttpRequest) -> int:
    """The number of bytes that arrived, no matter who has read them."""
    state: Any = request
    if hasattr(request, "_body"):
        return len(state._body)
    stream: Any = state._stream
    if isinstance(state._stream, LimitedStream):
        for _ in _chunks(stream):  # the rest, if a reader stopped early
            pass
        return int(stream._pos)
    if not stream.seekable():
        return _length(request)  # a consumed stream of other code: assume that it was complete
    position = stream.tell()
    size: int = stream.seek(0, SEEK_END)
    stream.seek(position)
    return size


def body_digest(request: HttpRequest, encode_parsed: Callable[[], bytes | None]) -> bytes:
    """
    Hash the body to 32 bytes: its raw bytes, or the fields and then the files of multipart/form-data, whose boundary
    differs at each attempt.

    *encode_parsed* encodes the data that a parser made of a body whose bytes are gone, or returns None.

    Raises `BodyUnreadable` if neither bytes nor data are left.
    """
    state: Any = request  # for its private names
    if not hasattr(request, "_body") and state._read_started and not _is_chunked(request):
        if request.content_type == MULTIPART and hasattr(request, "_files"):
            return _form_digest(state._post, state._files)
        data = encode_parsed()
        if data is None:
            raise BodyUnreadable(
                "The request's body was consumed before its fingerprint could be taken. Let the code that reads it"
                " first (a middleware, an authenticator) read `request.body`, which keeps it, or set the option"
                " `fingerprint`."
            )
        return digest(b"parsed", data)
    if hasattr(request, "_body") and not _is_chunked(request):
        if request.content_type != MULTIPART:
            return _raw_digest(request, [request.body])
        source: IO[bytes] = BytesIO(request.body)
    else:
        source = request.META["wsgi.input"] if _is_chunked(request) else _rewound(request)
    result = _multipart_digest(request, source) if request.content_type == MULTIPART else None
    if result is None:
        source.seek(0)
        result = _raw_digest(request, _chunks(source))
    source.seek(0)
    return result


def _is_small(request: HttpRequest) -> bool:
    """Does `request.body` accept the body, without a large copy in memory?"""
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    length = _length(request)
    return length <= IN_MEMORY and (limit is None or length <= limit)


def _rewound(request: HttpRequest) -> IO[bytes]:
    """The body's stream at its beginning. If it cannot be rewound, a copy in a file takes its place."""
    state: Any = request
    stream: IO[bytes] = state._stream
    if not stream.seekable():
        stream = state._stream = _spool(request, stream)
    stream.seek(0)
    return stream


def _spool(request: Any, stream: IO[bytes]) -> IO[bytes]:
    """Copy *stream* to a file that lives as long as *request*."""
    kept: Any = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
    request.close = partial(_close, finalize(request, kept.close), request.close)
    for chunk in _chunks(stream):
        kept.write(chunk)
    kept.seek(0)
    return cast(IO[bytes], kept)


def _close(close_body: Callable[[], object], close: Callable[[], object]) -> None:
    """`HttpRequest.close` for a body in a file. Django calls it when the response has been sent."""
    close_body()
    close()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except OSError as error:  # the client hung up; `HttpRequest.read` raises the same
        raise UnreadablePostError(*error.args) from error


def _raw_digest(request: HttpRequest, chunks: Iterable[bytes]) -> bytes:
    content = sha256()
    for position, chunk in enumerate(chunks):
        content.update(chunk if position else _stable(request, chunk))
    return digest(b"raw", content.digest())


def _stable(request: HttpRequest, start: bytes) -> bytes:
    """Remove from the *start* of the body what differs at each attempt."""
    if request.content_type == URLENCODED:
        start = without_field(start, CSRF_FIELD.encode())
    if "gzip" in request.META.get("HTTP_CONTENT_ENCODING", "").lower():
        start = without_gzip_times(start)
    return start


def form_as_json(data: QueryDict) -> bytes:
    """Encode the fields that a parser made of a form."""
    return canonical_json([[name, values] for name, values in data.lists() if name != CSRF_FIELD])


def _multipart_digest(request: HttpRequest, source: IO[bytes]) -> bytes | None:
    """Hash the form in *source*; None if Django cannot parse it."""
    source.seek(0)
    stream: Any = source  # the stubs want a request; a parser only reads
    meta = request.META
    if _is_chunked(request):
        meta = meta | {"CONTENT_LENGTH": str(source.seek(0, SEEK_END))}
        source.seek(0)
    try:
        fields, files = MultiPartParser(meta, stream, [HashingHandler()], request.encoding).parse()
    except (MultiPartParserError, SuspiciousOperation):
        return None
    return _form_digest(fields, files)


def _form_digest(fields: MultiValueDict[str, Any], files: MultiValueDict[str, Any]) -> bytes:
    parts: list[bytes] = []
    for name, values in fields.lists():
        if name != CSRF_FIELD:
            parts += [_bytes(part) for value in values for part in ("field", name, value)]
    for name, uploads in files.lists():
        for upload in uploads:
            parts += [_bytes(part) for part in ("file", name, upload.name, upload.content_type)]
            parts.append(upload.digest if isinstance(upload, HashedFile) else _file_digest(upload))
    return digest(b"form", *parts)


def _bytes(part: str | None) -> bytes:
    return (part or "").encode(errors="surrogatepass")


def _file_digest(upload: "UploadedFile[Any]") -> bytes:
    content = sha256()
    for chunk in upload.chunks():
        content.update(chunk)
    upload.seek(0)
    return content.digest()


class HashedFile(UploadedFile):  # type: ignore[type-arg]
    """A file that was hashed as it arrived, without its content."""

    digest: bytes


class HashingHandler(FileUploadHandler):
    """Hashes each file's chunks and keeps none of them."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self._content = sha256()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        self._content.update(raw_data)
        return None

    def file_complete(self, file_size: int) -> HashedFile:
        file = HashedFile(name=self.file_name, content_type=self.content_type, size=file_size)
        file.digest = self._content.digest()
        return file
