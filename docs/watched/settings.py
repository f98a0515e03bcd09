"""The sample project with its figures for Prometheus."""

from sample_project.settings import *  # noqa: F403
from sample_project.settings import INSTALLED_APPS

ROOT_URLCONF = "docs.watched.urls"
INSTALLED_APPS = [*INSTALLED_APPS, "django_idempotency.contrib.prometheus"]
