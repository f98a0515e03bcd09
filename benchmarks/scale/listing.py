"""
The admin's list of records, in a process of its own: the list itself, every filter and date that it links to, a page
further, an exact-key search and a record's page.

Prints, with `EXPLAIN=1`, the plan of every query that takes over 5 ms.
"""

import html
import io
import json
import os
import re
import statistics
import sys
import time
from typing import Any

import dj_database_url
import django
from django.conf import settings

from benchmarks.scale.rows import USERS, key_of

TIMES = 7
SLOW = 0.005  # seconds


def configure() -> None:
    settings.configure(
        SECRET_KEY="benchmarks",  # noqa: S106 of a database that is dropped at the end
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.scale.listing_urls",
        DATABASES={"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=None)},
        USE_TZ=True,
        STATIC_URL="static/",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "django_idempotency",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ],
                },
            },
        ],
    )
    django.setup()


def main() -> dict[str, Any]:
    """Milliseconds by the URL, as the median of some requests."""
    configure()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.urls import reverse

    from django_idempotency.models import IdempotencyRecord

    call_command("migrate", verbosity=0)
    browser = Browser(User.objects.create_superuser("operator", pk=USERS + 1))
    changelist = reverse("admin:django_idempotency_idempotencyrecord_changelist")
    record = IdempotencyRecord.objects.for_key(key_of(1)).get()
    _, page = browser.get(changelist)
    links = dict.fromkeys(html.unescape(link) for link in re.findall(r'href="(\?[^"]+)"', page))
    records = re.findall(r'href="([^"?]*/change/)', page)
    urls = [
        changelist,
        f"{changelist}?q={key_of(1)}",
        f"{changelist}?q={bytes(record.digest).hex()}",
        f"{changelist}?q=no-such-key",
        *(changelist + link for link in links),
        records[0],
    ]
    result = {}
    for url in urls:
        times = [browser.get(url)[0] for _ in range(TIMES)]
        result[url] = {"median": statistics.median(times) * 1000, "slowest": max(times) * 1000}
        print(f"  {result[url]['median']:7.1f} ms  {url}", file=sys.stderr, flush=True)
        if os.environ.get("EXPLAIN"):
            browser.explain(url)
    return {"urls": result}


class Browser:
    """A user who is logged in."""

    def __init__(self, user: Any) -> None:
        from django.core.wsgi import WSGIHandler
        from django.test import Client

        client = Client()
        client.force_login(user)
        self.cookie = f"sessionid={client.cookies['sessionid'].value}"
        self.application = WSGIHandler()

    def get(self, url: str) -> tuple[float, str]:
        """Seconds and content of the page. Raises `RuntimeError` if there is none."""
        path, _, query = url.partition("?")
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_COOKIE": self.cookie,
            "wsgi.input": io.BytesIO(),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
        }
        seen: list[str] = []
        begun = time.perf_counter()
        response = self.application(environ, lambda status, headers: seen.append(status))
        content = b"".join(response)
        response.close()
        spent = time.perf_counter() - begun
        if not seen[0].startswith("200"):
            raise RuntimeError(f"{url} answered {seen[0]}")
        return spent, content.decode()

    def explain(self, url: str) -> None:
        """Print the plans of what is slow."""
        from django.db import connection

        queries: list[tuple[str, Any, float]] = []

        def timed(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            begun = time.perf_counter()
            try:
                return execute(sql, params, many, context)
            finally:
                queries.append((sql, params, time.perf_counter() - begun))

        with connection.execute_wrapper(timed):
            self.get(url)
        print(f"           {len(queries)} queries", file=sys.stderr)
        for sql, params, seconds in queries:
            if seconds < SLOW or not sql.startswith("SELECT"):
                continue
            print(f"    {seconds * 1000:.1f} ms  {sql}\n      {params}", file=sys.stderr)
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", params)
                for (line,) in cursor.fetchall():
                    print(f"      {line}", file=sys.stderr)


if __name__ == "__main__":
    print(json.dumps(main()))
