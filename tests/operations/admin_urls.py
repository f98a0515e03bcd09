"""The admin, and a second one of another name, beside the test project's views."""

from django.contrib import admin
from django.urls import path

from django_idempotency.admin import IdempotencyRecordAdmin
from django_idempotency.models import IdempotencyRecord
from tests.app import urls

other_site = admin.AdminSite("other-admin")
other_site.register(IdempotencyRecord, IdempotencyRecordAdmin)

urlpatterns = [path("admin/", admin.site.urls), path("other-admin/", other_site.urls), *urls.urlpatterns]
