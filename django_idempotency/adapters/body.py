"""
Computes the digest of a request's body without consuming the body.

Later readers (a parser, an upload handler, the view) find the body unread, and earlier ones (the CSRF check, an
authenticator) do not change the digest. Django has no public way to rewind a stream, so this module, and no other, uses
a request's `_stream`, `_body`, `_post` and `_files`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from io import SEEK_END, BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast
from urllib.parse import parse_qsl
from weakref import finalize

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.core.handlers.wsgi import LimitedStream
from django.http import HttpRequest, QueryDict, UnreadablePostError
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.http.request import RawPostDataException
from django.utils.datastructures import MultiValueDict

from django_idempotency.adapters.wsgi_input import IN_MEMORY, OBSERVED, ObservedInput, is_gzip
from django_idempotency.core.fingerprint import canonical_json, digest, without_field, without_gzip_times
from django_idempotency.core.keys import KEY_FIELD
from django_idempotency.exceptions import BodyIncomplete, BodyUnreadable, LengthRequired, Refusal

Form = tuple[QueryDict, MultiValueDict[str, Any]]  # its fields and its files

CHUNK = 64 * 1024  # bytes read at once
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
# Fields that are not part of a form's meaning: the first is masked anew for every page.
LEFT_OUT = ("csrfmiddlewaretoken", KEY_FIELD)


def receive(request: HttpRequest) -> Refusal | None:
    """
    Read the body of *request* to its end, so that nothing runs if part of it is missing.

    Returns a refusal if the body is shorter than `Content-Length` announces, or if it has no length and the server does
    not mark its end.
    """
    state: Any = request
    if not hasattr(request, "_stream"):
        return None  # a bare HttpRequest, as tests make it
    observed = _observed(request)
    if observed is not None and not observed.size:
        observed.stop()  # not read yet, and this module keeps what it reads
    read_started = state._read_started
    try:
        if _is_chunked(request):
            refusal = _receive_chunked(request)
            if refusal is not None:
                return refusal
            missing = False
        else:
            if not hasattr(request, "_body") and not state._read_started:
                if _is_small(request) and (request.content_type == URLENCODED or not state._stream.seekable()):
                    request.body  # noqa: B018 Django keeps it
                else:
                    _kept(request)
            missing = _received(request) < _length(request)
    except Exception as error:
        # The client or a proxy has hung up. Most servers raise an OSError, which Django translates.
        if not isinstance(error, UnreadablePostError) and not _is_broken(observed):
            raise
        # In observe mode the view reads it, too, and gets the same error. Django would show it an empty form.
        state._read_started = read_started
        missing = True
    return BodyIncomplete() if missing or _is_broken(observed) else None


def _is_broken(observed: ObservedInput | None) -> bool:
    """Whether reading the body has failed. A server may raise its error only once, at the first read."""
    return observed is not None and observed.is_broken


def _observed(request: HttpRequest) -> ObservedInput | None:
    return cast(ObservedInput | None, request.META.get(OBSERVED))


def _is_chunked(request: HttpRequest) -> bool:
    """Whether the body has no length, so Django takes it for an empty one. WSGI only: ASGI passes the whole body."""
    return hasattr(request, "environ") and "HTTP_TRANSFER_ENCODING" in request.META and not _length(request)


def _receive_chunked(request: Any) -> Refusal | None:
    """Keep the body in `wsgi.input`, where a handler looks for it, because Django does not read it."""
    stream = request.environ["wsgi.input"]
    if isinstance(stream, SpooledTemporaryFile):
        return None  # kept already
    if not request.environ.get("wsgi.input_terminated"):
        return LengthRequired()
    request.environ["wsgi.input"] = _spool(request, stream)
    return None


def _length(request: HttpRequest) -> int:
    """The number of bytes in `Content-Length`, as Django reads it."""
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _received(request: HttpRequest) -> int:
    """The number of bytes of the body that arrived, whichever code read them."""
    state: Any = request
    if hasattr(request, "_body"):
        return len(state._body)
    stream: Any = state._stream
    if isinstance(state._stream, LimitedStream):
        for _ in _chunks(stream):  # what its reader has not read
            pass
        return int(stream._pos)
    if not stream.seekable():
        return _length(request)  # a consumed stream of another library: assume that it was complete
    return _size(stream)


def _size(stream: IO[bytes]) -> int:
    """The size in bytes of *stream*, which can be rewound."""
    position = stream.tell()
    size = stream.seek(0, SEEK_END)
    stream.seek(position)
    return size


def body_digest(request: HttpRequest, parsed: Callable[[], bytes | None] | None = None) -> bytes:
    """
    The digest of the body, 32 bytes: of its raw bytes, or for multipart/form-data, whose boundary is new in each
    attempt, of its fields in their order and then its files.

    *parsed* returns the parsed data in canonical form if the bytes are gone, or None.

    Raises `BodyUnreadable` if neither bytes nor data are left.
    """
    if hasattr(request, "_body") and request.content_type != MULTIPART and not _is_chunked(request):
        return _raw_digest(request, (request.body,))
    source = _source(request)
    if source is None:
        return _digest_of_what_is_left(request, parsed)
    position = source.tell()
    result = _multipart_digest(request, source) if request.content_type == MULTIPART else None
    if result is None:
        source.seek(0)
        is_form = request.content_type == URLENCODED and _fits(_size(source))
        result = _raw_digest(request, [source.read()] if is_form else _chunks(source))
    source.seek(position)
    return result


def has_form(request: HttpRequest) -> bool:
    """Whether the body of *request* is a form that Django parses. It takes one without a length for an empty one."""
    return request.method == "POST" and request.content_type in (URLENCODED, MULTIPART) and not _is_chunked(request)


def form_values(request: HttpRequest, name: str) -> list[str]:
    """
    The values of the field *name* in the form of *request*, whose body was received. The form stays unparsed for the
    view, which may choose its own upload handlers. One that cannot be parsed has no values: the view gets the error.
    """
    try:
        form = _form(request)
    except (RawPostDataException, SuspiciousOperation):  # gone; too many fields, or too large
        return []
    return [] if form is None else cast(list[str], form[0].getlist(name))


def form_pairs(request: HttpRequest) -> list[tuple[str, str]] | None:
    """
    The names and values of the form of *request*, in an order of the same fingerprint. None if it has files, which a
    page cannot send again, or cannot be read.
    """
    try:
        if request.content_type == URLENCODED:
            return parse_qsl(whole_body(request).decode(), keep_blank_values=True, encoding=request.encoding or "utf-8")
        form = _form(request)
    except (RawPostDataException, SuspiciousOperation, ValueError):
        return None
    if form is None or form[1]:
        return None
    return [(name, value) for name, values in form[0].lists() for value in values]


def _form(request: HttpRequest) -> Form | None:
    state: Any = request
    if hasattr(request, "_post"):
        return state._post, state._files
    if request.content_type == URLENCODED:
        return QueryDict(whole_body(request), encoding="utf-8"), MultiValueDict()  # as Django reads it
    source = _source(request)
    if source is None:
        return None
    position = source.tell()
    form = _parse_multipart(request, source)
    source.seek(position)
    return form


def whole_body(request: HttpRequest) -> bytes:
    """
    The bytes of the body, even if the stream has been read.

    Raises `RequestDataTooBig` if Django would refuse so many, and `RawPostDataException` if they are gone.
    """
    state: Any = request
    if hasattr(request, "_body") or not state._read_started:
        return request.body
    source = _source(request)
    if source is None:
        raise RawPostDataException("The request's body was read as a stream, and is too large to be kept.")
    if not _fits(_size(source)):
        raise RequestDataTooBig("The request's body is larger than DATA_UPLOAD_MAX_MEMORY_SIZE.")
    position = source.tell()
    source.seek(0)
    content = source.read()
    source.seek(position)
    return content


def keep_place(request: HttpRequest) -> Callable[[], None]:
    """
    Note what of the body, and of the files in its form, is still unread. The result goes back there.

    It raises `ValueError` if one was closed since.
    """
    streams = [getattr(request, "_stream", None), request.META.get("wsgi.input") if _is_chunked(request) else None]
    streams += uploaded(request)
    places = [(each, each.tell()) for each in streams if each is not None and each.seekable()]

    def go_back() -> None:
        for stream, place in places:
            stream.seek(place)

    return go_back


def uploaded(request: HttpRequest) -> "list[UploadedFile[Any]]":
    """The files of a form that was parsed already."""
    files: Any = getattr(request, "_files", None)
    return [] if files is None else [file for _, each in files.lists() for file in each]


def _source(request: HttpRequest) -> IO[bytes] | None:
    """The whole body as a stream that can be rewound, or None if it is gone."""
    state: Any = request
    observed = _observed(request)
    if _is_chunked(request):
        return observed.whole() if observed is not None and observed.size else request.META["wsgi.input"]
    if hasattr(request, "_body"):
        return BytesIO(request.body)
    if not state._read_started:
        return _kept(request)
    if state._stream.seekable():
        return cast(IO[bytes], state._stream)
    return None if observed is None else observed.whole()


def _digest_of_what_is_left(request: HttpRequest, parsed: Callable[[], bytes | None] | None) -> bytes:
    """The digest of a body that was read as a stream, and was too large to keep."""
    state: Any = request
    if request.content_type == MULTIPART and hasattr(request, "_files"):
        return _form_digest(state._post, state._files)
    observed = _observed(request)
    content = None if observed is None or request.content_type in (MULTIPART, URLENCODED) else observed.hash()
    if content is not None:
        return digest(b"raw", content)
    data = parsed() if parsed else None
    if data is None:
        raise BodyUnreadable(
            "The request's body was consumed before its fingerprint could be taken. Let the code that reads it"
            " first (a middleware, an authenticator) read `request.body`, which keeps it, or set the option"
            " `fingerprint`."
        )
    return digest(b"parsed", data)


def _is_small(request: HttpRequest) -> bool:
    """Can `request.body` hold it without a large copy in memory? Django keeps a form in memory anyway."""
    state: Any = request
    length = max(_length(request), _size(state._stream) if state._stream.seekable() else 0)
    return (length <= IN_MEMORY or request.content_type == URLENCODED) and _fits(length)


def _fits(size: int) -> bool:
    """Whether Django reads a body of *size* bytes into memory."""
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return limit is None or size <= limit


def _kept(request: HttpRequest) -> IO[bytes]:
    """The body's stream, at its start. One that cannot be rewound is first replaced by a temporary file."""
    state: Any = request
    stream: IO[bytes] = state._stream
    if not stream.seekable():
        stream = state._stream = _spool(request, stream)
    stream.seek(0)
    return stream


def _spool(request: Any, stream: IO[bytes]) -> IO[bytes]:
    """Copy *stream* to a temporary file, which lives as long as *request*."""
    kept: Any = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
    request.close = partial(_close, finalize(request, kept.close), request.close)
    for chunk in _chunks(stream):
        kept.write(chunk)
    kept.seek(0)
    return cast(IO[bytes], kept)


def _close(close_body: Callable[[], object], close: Callable[[], object]) -> None:
    """The `close` of a request whose body is kept in a file. Django calls it when the response has been sent."""
    close_body()
    close()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of *stream*. Every error is raised as `UnreadablePostError`, as Django does with OSError."""
    while True:
        try:
            chunk = stream.read(CHUNK)
        except Exception as error:  # the client hung up, or a chunk is malformed: each server has its own error
            raise UnreadablePostError(*error.args) from error
        if not chunk:
            return
        yield chunk


def _raw_digest(request: HttpRequest, chunks: Iterable[bytes]) -> bytes:
    content = sha256()
    for position, chunk in enumerate(chunks):
        content.update(chunk if position else _significant(request, chunk))
    return digest(b"raw", content.digest())


def _significant(request: HttpRequest, start: bytes) -> bytes:
    """The *start* of the body without the parts that differ in each attempt."""
    if request.content_type == URLENCODED:
        for name in LEFT_OUT:
            start = without_field(start, name.encode())
    return without_gzip_times(start) if is_gzip(request.META) else start


def form_as_json(data: QueryDict) -> bytes:
    """The fields of a parsed form, in canonical form."""
    return canonical_json([[name, values] for name, values in data.lists() if name not in LEFT_OUT])


def _multipart_digest(request: HttpRequest, source: IO[bytes]) -> bytes | None:
    """The digest of the form in *source*, or None if Django could not parse it."""
    form = _parse_multipart(request, source)
    return None if form is None else _form_digest(*form)


def _parse_multipart(request: HttpRequest, source: IO[bytes]) -> Form | None:
    """Parse the form in *source*, once for each request, and keep no file. None if Django could not parse it."""
    state: Any = request
    if not hasattr(request, "_idempotency_form"):
        source.seek(0)
        stream: Any = source  # the stubs want a request; a parser only reads
        meta = request.META | {"CONTENT_LENGTH": str(_size(source))}  # without one, Django takes the form to be empty
        try:
            state._idempotency_form = MultiPartParser(meta, stream, [HashingHandler()], request.encoding).parse()
        except (MultiPartParserError, SuspiciousOperation):
            state._idempotency_form = None
    return cast(Form | None, state._idempotency_form)


def _form_digest(fields: MultiValueDict[str, Any], files: MultiValueDict[str, Any]) -> bytes:
    parts: list[bytes] = []
    for name, values in fields.lists():
        if name not in LEFT_OUT:
            parts += [_bytes(part) for value in values for part in ("field", name, value)]
    for name, uploads in files.lists():
        for upload in uploads:
            parts += [_bytes(part) for part in ("file", name, upload.name, upload.content_type)]
            parts.append(upload.digest if isinstance(upload, HashedFile) else _file_digest(upload))
    return digest(b"form", *parts)


def _bytes(text: str | None) -> bytes:
    return (text or "").encode(errors="surrogatepass")


def _file_digest(upload: "UploadedFile[Any]") -> bytes:
    content = sha256()
    for chunk in upload.chunks():
        content.update(chunk)
    upload.seek(0)
    return content.digest()


class HashedFile(UploadedFile):  # type: ignore[type-arg]
    """A file that was hashed while it arrived, without its content."""

    digest: bytes


class HashingHandler(FileUploadHandler):
    """Hash each file's chunks and keep none of them."""

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
