"""E015, E016, W018: the middleware's place, its patterns, and what it leaves out; and what other checks say by it."""

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.decorators import login_required
from django.urls import include, path, re_path
from django.utils import translation
from django.utils.functional import lazy
from rest_framework.permissions import AllowAny

from django_idempotency import idempotent
from django_idempotency.checks import middleware
from tests.checks.views import Protected
from tests.protection.conftest import MIDDLEWARE
from tests.protection.zoo import PaymentSet, Plain, Rest, nameless_guard, pay, vip_only

ID = "django_idempotency."


@pytest.fixture
def by_middleware(settings) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]


@pytest.mark.parametrize("after", ["django.middleware.csrf.CsrfViewMiddleware", MIDDLEWARE])
def test_E015(settings, after):
    """At a wrong place, or twice."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE, after]

    [message] = middleware.check_place()

    assert message.id == f"{ID}E015"
    assert after in message.msg
    assert "last" in message.hint


def test_E015_is_silent_without_it_and_at_its_place(settings):
    """With and without the middleware."""
    assert middleware.check_place() == []
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]
    assert middleware.check_place() == []


def test_E016(urls, settings, by_middleware):
    """A pattern that matches no route is a typing error."""
    urls(pay(), Plain.as_view())
    settings.IDEMPOTENCY = {"PROTECT": ["view*", "vew0/"], "EXEMPT": ["view1/", "api/*"]}

    messages = middleware.check_patterns()

    assert [message.id for message in messages] == [f"{ID}E016"] * 2
    assert "'vew0/'" in messages[0].msg
    assert "'api/*'" in messages[1].msg


ENGLISH_AND_GERMAN = [("en", "English"), ("de", "German")]


def spelt(word):
    """As `gettext_lazy` would translate it."""
    return lazy(lambda: f"{translation.get_language()}/{word}", str)()


TRANSLATED = {
    "a prefix": lambda: i18n_patterns(path("pay/", pay())),
    "a route": lambda: [path(spelt("pay/"), pay())],
    "an include": lambda: [path("", include([path(spelt(""), include([path("pay/", pay())]))]))],
    "an expression": lambda: [re_path(spelt("pay/"), pay())],
}


@pytest.mark.parametrize("kind", TRANSLATED)
@pytest.mark.parametrize("setting", ["PROTECT", "EXEMPT"])
@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["en/pay/"], ["W022"]),
        (["de/pay/"], ["W022"]),
        (["en/pay/", "de/pay/"], []),
        (["*/pay/"], []),
        (["fr/pay/"], ["E016"]),
    ],
)
def test_W022(urls, settings, kind, setting, patterns, expected):
    """A request is compared in its own language, and a pattern in any language is no typing error."""
    settings.LANGUAGES = ENGLISH_AND_GERMAN
    urls(*TRANSLATED[kind]())
    settings.IDEMPOTENCY = {setting: patterns}

    messages = middleware.check_patterns()

    assert [message.id.removeprefix(ID) for message in messages] == expected
    assert all(
        "'de/pay/'" in message.msg and "'en/pay/'" in message.msg for message in messages if "W022" in message.id
    )


def test_W022_is_silent_without_translations(urls, settings):
    settings.LANGUAGES, settings.USE_I18N = ENGLISH_AND_GERMAN, False
    urls(pay(), Plain.as_view())
    settings.IDEMPOTENCY = {"PROTECT": ["view0/"]}

    assert middleware.check_patterns() == []


@pytest.mark.parametrize("language", ["en", "de"])
def test_what_W022_warns_of(urls, settings, language, client, db, by_middleware):
    """The view is protected in the language that the pattern names."""
    settings.LANGUAGES = ENGLISH_AND_GERMAN
    settings.MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware", *settings.MIDDLEWARE]
    urls(*TRANSLATED["a prefix"]())
    settings.IDEMPOTENCY = {"PROTECT": ["en/pay/"]}

    with translation.override(language):
        answers = [
            client.post(f"/{language}/pay/", {"amount": 1}, "application/json", headers={"Idempotency-Key": "1"})
            for _ in range(2)
        ]

    assert (answers[1].get("Idempotency-Replayed") == "true") is (language == "en")


def test_W018(urls, settings, by_middleware):
    """A view that the middleware would protect if it knew where: named with the reason, once."""
    guard = vip_only(pay())
    urls(pay(), guard, guard, nameless_guard(pay()), idempotent(pay()), Plain.as_view())

    messages = middleware.check_unplaced()

    assert [message.id for message in messages] == [f"{ID}W018"] * 2
    assert "vip_only is not known" in messages[0].msg
    assert "POST, PATCH" in messages[0].msg
    assert "@idempotent" in messages[0].hint


def test_W018_is_silent(urls, settings):
    """Without the middleware, for a view that is exempt, and for one that silences it."""
    guard = vip_only(pay())
    urls(guard)
    assert middleware.check_unplaced() == []

    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]
    settings.IDEMPOTENCY = {"EXEMPT": ["view0/"]}
    assert middleware.check_unplaced() == []

    settings.IDEMPOTENCY = {}
    guard.idempotency_silenced_checks = ["W018"]
    assert middleware.check_unplaced() == []


def test_the_checks_of_views_hold_for_what_the_middleware_protects(ids, by_middleware):
    """W002: anonymous requests share a scope. Nothing is said of what needs no word."""
    assert ids(Rest.as_view(permission_classes=[AllowAny])) == ["W002"]
    assert ids(pay(), Plain.as_view()) == ["W002", "W002"]
    assert ids(Rest.as_view(), login_required(pay()), PaymentSet.as_view({"post": "create"}), Protected.as_view()) == []
