"""The API under `/api/`, its OpenAPI document, its two ways to log in, and the admin."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.authtoken.views import obtain_auth_token

from sample_project.payments.pages import pay

handler404 = "sample_project.payments.pages.not_found"

urlpatterns = [
    path("", RedirectView.as_view(url="/api/")),
    path("api/token/", obtain_auth_token, name="token"),  # for programs
    path("api-auth/", include("rest_framework.urls")),  # for people, in the browsable API
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(), name="docs"),
    path("api/", include("sample_project.payments.urls")),
    path("pay/", pay, name="pay"),  # a form, for people
    path("admin/", admin.site.urls),
]
