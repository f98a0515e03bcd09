"""The benchmarks' project for a WSGI server."""

from django.core.wsgi import get_wsgi_application

from benchmarks.project import configure

configure()
application = get_wsgi_application()
