"""W023: an OpenAPI document that does not tell of keys."""

import pytest
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.views import SpectacularAPIView

from django_idempotency.checks import environment
from django_idempotency.contrib import spectacular
from tests.app.views import pay


@pytest.mark.parametrize(
    ("own", "is_silent"),
    [
        (None, True),
        ({"TITLE": "Payments"}, True),
        ({"POSTPROCESSING_HOOKS": []}, False),
        ({"POSTPROCESSING_HOOKS": [spectacular.document]}, True),
        ({"POSTPROCESSING_HOOKS": [environment.DOCUMENT_HOOK]}, True),
    ],
)
def test_W023(urls, monkeypatch, own, is_silent):
    """It is named by its route."""
    monkeypatch.setattr(spectacular_settings, "POSTPROCESSING_HOOKS", [spectacular.document])
    urls(SpectacularAPIView.as_view(custom_settings=own), pay)

    found = [(each.id, "'view0/'" in each.msg) for each in environment.check_documents()]

    assert found == ([] if is_silent else [("django_idempotency.W023", True)])


def test_W023_without_the_app(urls, monkeypatch):
    """Views of drf-spectacular work without it in INSTALLED_APPS, but then nothing adds the hook."""
    monkeypatch.setattr(spectacular_settings, "POSTPROCESSING_HOOKS", [])
    urls(SpectacularAPIView.as_view(), pay)

    assert len(environment.check_documents()) == 1


def test_W023_is_silent_where_no_view_is_protected(urls):
    urls(SpectacularAPIView.as_view(custom_settings={"POSTPROCESSING_HOOKS": []}))

    assert environment.check_documents() == []
