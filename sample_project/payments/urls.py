from django.urls import include, path
from rest_framework.routers import DefaultRouter

from . import views

router = DefaultRouter(use_regex_path=False)  # routes that read well: they are the names of the operations
router.include_format_suffixes = False
router.register("accounts", views.AccountViewSet, basename="account")
router.register("accounts/<int:account_pk>/charges", views.ChargeViewSet, basename="charge")

urlpatterns = [
    path("transfers/", views.create_transfer, name="transfer-create"),
    path("accounts/<int:account_pk>/card-payments/", views.pay_by_card, name="card-payment-create"),
    path("accounts/<int:account_pk>/top-ups/", views.top_up, name="top-up-create"),
    path("accounts/<int:account_pk>/statements/", views.order_statement, name="statement-order"),
    path("", include(router.urls)),
]
