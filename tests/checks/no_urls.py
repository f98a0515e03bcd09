"""A URLconf without a view."""

urlpatterns: list[object] = []
