"""The package is among the apps of tenants, or with `LAYOUT=shared` among those that they share."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES as ORDINARY

DATABASES = {
    "default": {
        **ORDINARY["default"],
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": os.environ["TENANTS_DATABASE"],
    }
}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
PACKAGE = ["django_idempotency"]
SHARED_APPS = ["django_tenants", "django.contrib.contenttypes", "tests.operations.tenants"]
TENANT_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.admin"]
if os.environ["LAYOUT"] == "shared":
    SHARED_APPS += PACKAGE
else:
    TENANT_APPS += PACKAGE
INSTALLED_APPS = list(dict.fromkeys([*SHARED_APPS, *TENANT_APPS]))
TENANT_MODEL = "tenants.Client"
TENANT_DOMAIN_MODEL = "tenants.Domain"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.operations.tenants.urls"
MIDDLEWARE = []
