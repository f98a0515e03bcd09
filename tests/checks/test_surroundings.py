"""I001, W008 to W010, W024: the admin, its permissions, what django-cors-headers lets by, Prometheus's files."""

import pytest
from corsheaders.defaults import default_headers
from django.contrib.auth.models import Permission
from django.core.checks import registry
from django.db import OperationalError, connection

from django_idempotency import Policy
from django_idempotency.checks import environment
from django_idempotency.engine import announcements, steps
from tests.checks.test_setting import manage
from tests.checks.views import Protected

ID = "django_idempotency."
NAMES = ("view_stored_response", "free_key", "settle_outcome")


# --- the admin ---


def test_I001():
    """Only where one asks what a deployment lacks: a project that does without is not told so at every command."""
    told = manage("check", "--deploy")
    quiet = manage("check")

    assert f"({ID}I001)" in told.stderr + told.stdout
    assert "idempotency_show" in told.stderr + told.stdout
    assert ID not in quiet.stderr + quiet.stdout


def test_I001_is_silent_where_the_admin_is():
    """As in this project."""
    assert environment.check_admin in registry.registry.deployment_checks
    assert environment.check_admin() == []


# --- permissions ---


@pytest.mark.django_db
def test_W008():
    """The missing ones are named, and the command that makes them."""
    assert environment.check_permissions(databases=["default"]) == []
    Permission.objects.filter(codename__in=NAMES).delete()

    [message] = environment.check_permissions(databases=["default"])

    assert message.id == f"{ID}W008"
    assert all(name in message.msg for name in NAMES)
    assert "manage.py migrate --database default" in message.hint


@pytest.mark.django_db
def test_W008_names_the_one_that_is_missing():
    Permission.objects.filter(codename="free_key").delete()

    [message] = environment.check_permissions(databases=["default"])

    assert "lacks the permission free_key of" in message.msg


@pytest.mark.django_db
@pytest.mark.parametrize("databases", [None, [], ["other"]], ids=repr)
def test_W008_is_asked_of_the_database_of_permissions_only(databases):
    """No other is asked, and none where the command names none."""
    Permission.objects.filter(codename__in=NAMES).delete()

    assert environment.check_permissions(databases=databases) == []


@pytest.mark.django_db
def test_W008_has_nothing_to_say_before_the_first_migration(monkeypatch):
    """It would stand beside W004, and the next command mends both."""
    Permission.objects.filter(codename__in=NAMES).delete()
    monkeypatch.setattr(connection.introspection, "table_names", lambda cursor: ["auth_permission"])

    assert environment.check_permissions(databases=["default"]) == []


def test_W008_leaves_a_server_that_is_away_to_W007(monkeypatch):
    def refuse():
        raise OperationalError("connection refused")

    monkeypatch.setattr(connection, "cursor", refuse)

    assert environment.check_permissions(databases=["default"]) == []


def test_W008_needs_no_auth():
    """A project without users has no permissions."""
    result = manage("check", "--database", "default")

    assert result.returncode == 0, result.stderr


# --- django-cors-headers ---


@pytest.fixture
def cors(settings, urls):
    """The messages about a project with django-cors-headers and a view of *options*."""

    def check(**options):
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "corsheaders"]
        view = type("View", (Protected,), {"idempotency": Policy(**options)})
        urls(view.as_view())
        messages = environment.check_cors()
        assert all(message.hint for message in messages)
        return {message.id.removeprefix(ID): message for message in messages}

    return check


def test_W009(cors):
    """The package's own default list does not have the header."""
    message = cors()["W009"]

    assert "does not allow the header Idempotency-Key," in message.msg
    assert 'CORS_ALLOW_HEADERS = (*default_headers, "idempotency-key")' in message.hint


def test_W010(cors):
    """Nothing is exposed by default."""
    message = cors()["W010"]

    assert "does not expose the header Idempotency-Replayed," in message.msg
    assert 'Add "idempotency-replayed" to CORS_EXPOSE_HEADERS' in message.hint


def test_a_right_project_is_silent(cors, settings):
    """Header names have no case."""
    settings.CORS_ALLOW_HEADERS = (*default_headers, "Idempotency-KEY")
    settings.CORS_EXPOSE_HEADERS = ["idempotency-replayed"]

    assert cors() == {}


def test_the_headers_are_the_options(cors, settings):
    """A view's own names are what a browser has to send and may see."""
    settings.CORS_ALLOW_HEADERS = (*default_headers, "idempotency-key")
    settings.CORS_EXPOSE_HEADERS = ["idempotency-replayed"]

    messages = cors(header="X-Request-Token", replayed_header="X-Replayed")

    assert "X-Request-Token" in messages["W009"].msg
    assert '"x-replayed"' in messages["W010"].hint


def test_a_key_from_elsewhere_needs_no_header(cors):
    """A callable `key` reads the body, say."""
    assert "W009" not in cors(key=lambda request: "1")


@pytest.mark.parametrize(("credentials", "ids"), [(False, set()), (True, {"W009", "W010"})])
def test_a_wildcard_counts_without_credentials_only(cors, settings, credentials, ids):
    """With them a browser takes it for a header of that name."""
    settings.CORS_ALLOW_HEADERS = settings.CORS_EXPOSE_HEADERS = ["*"]
    settings.CORS_ALLOW_CREDENTIALS = credentials

    assert set(cors()) == ids


def test_the_middleware_alone_tells(settings, urls):
    """It works without the app."""
    settings.MIDDLEWARE = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    urls(Protected.as_view())

    assert len(environment.check_cors()) == 2


def test_nothing_protected_or_no_cors(settings, urls):
    """No word where there is nothing to say."""
    urls(Protected.as_view())
    assert environment.check_cors() == []

    settings.MIDDLEWARE = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    urls()
    assert environment.check_cors() == []


# --- Prometheus ---


def test_W024(settings, tmp_path, monkeypatch):
    """Its library does not make the folder, and would fail at each decision."""
    for module in (announcements, steps):  # what the app adds is taken back at the end
        monkeypatch.setattr(module, "observers", [*module.observers])
    with monkeypatch.context() as before:  # the library looks at it once, when it is imported
        before.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
        assert environment.check_metrics_directory() == []  # the app is not installed
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, environment.PROMETHEUS]
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))

    [message] = environment.check_metrics_directory()

    assert message.id == f"{ID}W024"
    assert str(tmp_path / "metrics") in message.msg
    (tmp_path / "metrics").mkdir()
    assert environment.check_metrics_directory() == []
