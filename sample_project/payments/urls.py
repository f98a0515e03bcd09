from django.urls import include, path
from rest_framework.routers import DefaultRouter

from . import views

router = DefaultRouter()
router.register("accounts", views.AccountViewSet, basename="account")
router.register(r"accounts/(?P<account_pk>[0-9]+)/charges", views.ChargeViewSet, basename="charge")

urlpatterns = [
    path("transfers/", views.create_transfer, name="transfer-create"),
    path("", include(router.urls)),
]
