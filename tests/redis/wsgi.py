"""The application that a web server of these tests serves; its settings come with the environment."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.redis.settings")
application = get_wsgi_application()
