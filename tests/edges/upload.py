"""
`python -m tests.edges.upload PROTECTION READ_BEFORE DATABASE`: the peak memory of a view that takes 100 MB.

The body is made as it is read, by WSGI as a server would hand it over, so that nothing but the view holds it.
"""

import json
import os
import sys
from pathlib import Path

import django
from django.conf import settings

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
protection, read_before, database = sys.argv[1:]
settings.DATABASES["default"]["NAME"] = database
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from django_idempotency import idempotent  # noqa: E402

SIZE = 100 * 1024 * 1024  # bytes
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\nContent-Type: text/plain\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


class Body:
    """A multipart body of one large file."""

    def __init__(self) -> None:
        self.length = len(HEAD) + SIZE + len(TAIL)
        self.position = 0

    def read(self, size: int = -1) -> bytes:
        end = self.length if size < 0 else min(self.length, self.position + size)
        chunk = bytearray()
        while self.position < end:
            if self.position < len(HEAD):
                part = HEAD[self.position : end]
            elif self.position < len(HEAD) + SIZE:
                part = b"x" * (min(end, len(HEAD) + SIZE) - self.position)
            else:
                offset = self.position - len(HEAD) - SIZE
                part = TAIL[offset : offset + end - self.position]
            chunk += part
            self.position += len(part)
        return bytes(chunk)

    readline = read  # which WSGI asks for, and nobody calls


def view(request):
    return JsonResponse({"size": sum(len(chunk) for chunk in request.FILES["file"].chunks())}, status=201)


def peak() -> int:
    """The most memory that this process has ever had resident, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


settings.ROOT_URLCONF = (path("upload/", idempotent(view) if protection == "protected" else view),)
if read_before == "read by CSRF":
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
body = Body()
environ = {
    "REQUEST_METHOD": "POST",
    "PATH_INFO": "/upload/",
    "SERVER_NAME": "testserver",
    "SERVER_PORT": "80",
    "CONTENT_TYPE": "multipart/form-data; boundary=b",
    "CONTENT_LENGTH": str(body.length),
    "HTTP_IDEMPOTENCY_KEY": "large",
    "HTTP_COOKIE": "csrftoken=" + "a" * 32,
    "HTTP_X_CSRFTOKEN": "a" * 32,
    "HTTP_ORIGIN": "http://testserver",
    "wsgi.input": body,
    "wsgi.url_scheme": "http",
}
status = []
response = WSGIHandler()(environ, lambda line, headers: status.append(line))
content = json.loads(b"".join(response))
response.close()
assert status == ["201 Created"], status
assert content == {"size": SIZE}, content
sys.stdout.write(json.dumps({"peak": peak()}))
