"""E001, E002, E008, E021: the setting, and the app itself. What stops a server, and what `manage.py check` shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.checks import registry

from django_idempotency import checks, idempotent
from django_idempotency.checks.settings import check_enforcing, check_observing
from django_idempotency.protection import installation
from tests.ids import spelt

ROOT = Path(__file__).parents[2]
PROJECT = """
import sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=[{apps}],
    ROOT_URLCONF={urls!r},
    IDEMPOTENCY={setting},
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:",
                             "OPTIONS": {{"transaction_mode": "IMMEDIATE"}}}}}},
)
"""


def run(code: str, *, setting: str = "{}", apps: str = "'django_idempotency'", urls: str = "tests.checks.no_urls"):
    """Run *code* in a project of its own, in a fresh interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    project = PROJECT.format(apps=apps, setting=setting, urls=urls)
    return subprocess.run(
        [sys.executable, "-c", project + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def manage(*arguments: str, before: str = "", **options: str):
    """`manage.py` with *arguments*, after the code *before*."""
    code = f"{before}sys.argv = ['manage.py', *{arguments!r}]\n"
    return run(code + "from django.core.management import execute_from_command_line as run; run(sys.argv)", **options)


def test_E001(check, settings):
    """A bad option of the setting is named, with what it must be."""
    settings.IDEMPOTENCY = {"TTL": 5}

    [message] = check()

    assert message.id == "django_idempotency.E001"
    assert "IDEMPOTENCY: option 'ttl' must be a datetime.timedelta, not 5" in message.msg


@pytest.mark.parametrize(
    "setting",
    [
        [],
        {"REQUIERD": True},
        {"STORE": "redis"},
        {"SCOPE": "tests.missing.scope"},
        {"STORES": []},
        {"STORES": {"a": 1}},
    ],
    ids=spelt,
)
def test_E001_is_all_that_is_said_of_a_bad_setting(ids, settings, setting):
    """Whatever depends on the setting would only repeat it."""
    settings.IDEMPOTENCY = setting

    assert ids() == ["E001"]


def test_E002(check, settings):
    """A store that cannot be made is named."""
    settings.IDEMPOTENCY = {"STORES": {"mine": {"BACKEND": "tests.missing.Store"}, "yours": {"BACKEND": None}}}

    messages = check()

    assert [message.id for message in messages] == ["django_idempotency.E002"] * 2
    assert "['mine']" in messages[0].msg
    assert "['yours']" in messages[1].msg


@pytest.mark.parametrize("setting", [{"MODE": "observed"}, {"MODE": "observe", "OBSERVE_SAMPLE": 50}], ids=spelt)
def test_E001_of_observe_mode(ids, settings, setting):
    """A mode that does not exist, per cent in place of a share."""
    settings.IDEMPOTENCY = setting
    assert ids() == ["E001"]


def test_W021(settings):
    """To observe and to count nothing is no use."""
    settings.IDEMPOTENCY = {"MODE": "observe", "COUNTS": False}
    assert [message.id for message in check_observing()] == ["django_idempotency.W021"]
    for sound in ({"MODE": "observe"}, {"COUNTS": False}, {"MODE": "observed", "COUNTS": False}):
        settings.IDEMPOTENCY = sound
        assert check_observing() == []


def test_I002(settings):
    """A deployment is told that nothing is protected; other commands are not, while it is meant to be so."""
    assert check_enforcing in registry.registry.deployment_checks
    assert check_enforcing() == []
    settings.IDEMPOTENCY = {"MODE": "observe"}
    assert [message.id for message in check_enforcing()] == ["django_idempotency.I002"]


BAD = "{'REQUIERD': True}"
BAD_STORE = "{'STORES': {'mine': {'BACKEND': 'no.such.Store'}}}"
BAD_KEY = "{'ENCRYPTION': {'KEYS': {'mine': 'too short'}}}"


@pytest.mark.parametrize(
    ("setting", "says"), [(BAD, "REQUIERD"), (BAD_STORE, "mine"), (BAD_KEY, "mine")], ids=["option", "store", "key"]
)
def test_a_server_does_not_start_with_a_bad_setting(setting, says):
    """Setting Django up raises, as for every ImproperlyConfigured."""
    result = run(
        "from django.core.wsgi import get_wsgi_application; get_wsgi_application()",
        setting=setting,
    )

    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "PolicyError" in last
    assert says.lower() in last.lower()


@pytest.mark.parametrize(
    ("setting", "id"), [(BAD, "E001"), (BAD_STORE, "E002"), (BAD_KEY, "E021")], ids=["option", "store", "key"]
)
def test_manage_py_check_shows_it_with_its_remedy(setting, id):
    """The command reports it as its own, without a traceback."""
    result = manage("check", setting=setting)

    assert result.returncode == 1
    assert f"(django_idempotency.{id})" in result.stderr
    assert "HINT: Correct IDEMPOTENCY" in result.stderr
    assert "Traceback" not in result.stderr


def test_other_commands_stop_at_it():
    """Nothing else runs on a bad setting."""
    result = manage("migrate", setting=BAD)

    assert result.returncode == 1
    assert "PolicyError" in result.stderr.splitlines()[-1]


def test_a_right_project_passes():
    """`manage.py check` and `check --database` of a fresh project say nothing of ours."""
    for arguments in (("check",), ("check", "--database", "default"), ("migrate",)):
        result = manage(*arguments, apps="'django_idempotency', 'django.contrib.contenttypes', 'django.contrib.auth'")

        assert result.returncode == 0, result.stderr
        assert "django_idempotency." not in result.stderr


def test_E008():
    """Something is protected and the app is not installed: its own checks are never registered, this one is."""
    protect = "from django_idempotency import idempotent; idempotent(lambda request: None)\n"

    result = manage("check", apps="", before=protect)

    assert result.returncode == 1
    assert "(django_idempotency.E008)" in result.stderr
    assert "HINT: Add 'django_idempotency' to INSTALLED_APPS, then run `manage.py migrate`." in result.stderr


def test_E008_has_nothing_to_say_of_an_import():
    """A client imports the package and protects nothing."""
    assert manage("check", apps="", before="import django_idempotency\n").returncode == 0


def test_E008_is_silent_where_the_app_is_installed():
    """As here, where much is protected."""
    idempotent(lambda request: None)

    assert installation.check_installed in registry.registry.registered_checks
    assert installation.check_installed() == []


def test_a_request_without_the_app_names_the_remedy():
    """Where nobody ran the checks: not a database's error, nor a model's."""
    result = run(
        "import django; django.setup()\n"
        "from django.test import RequestFactory\n"
        "from django.http import HttpResponse\n"
        "from django_idempotency import idempotent\n"
        "settings.ALLOWED_HOSTS = ['testserver']\n"
        "view = idempotent(lambda request: HttpResponse())\n"
        "view(RequestFactory().post('/', headers={'Idempotency-Key': '1'}))",
        apps="",
    )

    assert result.returncode == 1
    assert "add it there, then run `manage.py migrate`" in result.stderr.splitlines()[-1]


def test_the_checks_need_no_drf():
    """A project of plain views has them without it."""
    result = manage("check", urls="tests.checks.plain_urls")

    assert result.returncode == 0, result.stderr
    blocked = manage("check", urls="tests.checks.plain_urls", before="sys.modules['rest_framework'] = None\n")
    assert blocked.returncode == 0, blocked.stderr


def test_every_id_is_tested_and_described():
    """Each id that the package can give is in the table of checks/ and has a test that is named for it."""
    package = Path(checks.__file__).parents[1]
    given = {
        part.split('"')[0]
        for path in package.rglob("*.py")
        for part in path.read_text().split('id="django_idempotency.')[1:]
    }
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))

    assert len(given) >= 17
    assert all(id in checks.__doc__ for id in given)
    assert all(f"def test_{id}(" in tests for id in given)
