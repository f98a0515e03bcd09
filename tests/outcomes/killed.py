"""`python -m tests.outcomes.killed EDGE ATOMIC_REQUESTS DATABASE`: a request whose process is killed in its handler."""

import os
import signal
import sys

import django
from django.conf import settings

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
edge, atomic_requests, database = sys.argv[1:]
settings.DATABASES["default"].update({"NAME": database, "ATOMIC_REQUESTS": atomic_requests == "True"})
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402

from tests.app.models import Payment  # noqa: E402
from tests.app.serving import EDGES, PATH, post  # noqa: E402


def handler(request):
    Payment.objects.create(amount=10)
    os.kill(os.getpid(), signal.SIGKILL)


settings.ROOT_URLCONF = (path(PATH.lstrip("/"), EDGES[edge](handler)),)
user = User.objects.get(username="payer")
client = Client()
if edge == "plain":
    client.force_login(user)
headers = {"Authorization": f"Token {Token.objects.get_or_create(user=user)[0]}"} if edge == "drf" else {}
post(client, headers=headers)
