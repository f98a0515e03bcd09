from django.urls import include, path
from rest_framework.routers import DefaultRouter
from rest_framework.urlpatterns import format_suffix_patterns

from tests.app import views

router = DefaultRouter()
router.register("payments", views.PaymentViewSet, basename="payment")
router.register("charges", views.PaymentViewSet, basename="charge")
router.register("actions", views.ActionsOnly, basename="action")

namespaced = [path("payments/", views.VersionedByNamespace.as_view())]

urlpatterns = [
    path("pay/", views.pay),
    path("plain/", views.plain),
    path("plain-class/", views.PlainClass.as_view()),
    path("plain-method/", views.PlainMethod.as_view()),
    path("method/", views.Method.as_view()),
    path("method/<int:account>/", views.Method.as_view()),
    path("generic/", views.Payments.as_view()),
    *format_suffix_patterns([path("mixed/", views.Mixed.as_view())]),
    path("api/", include(router.urls)),
    path("<str:version>/by-path/", views.VersionedByPath.as_view()),
    path("v1/", include((namespaced, "payments"), namespace="v1")),
    path("v2/", include((namespaced, "payments"), namespace="v2")),
]
