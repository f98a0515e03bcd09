"""`manage.py idempotency_audit`: every unsafe endpoint, and how it is protected; the baseline that CI compares with."""

import json
import sys
import time
from datetime import timedelta
from io import StringIO
from types import ModuleType
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.core.management import CommandError, call_command
from django.urls import include, path, re_path
from django.utils import translation
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from rest_framework.decorators import api_view
from rest_framework.routers import DefaultRouter

from django_idempotency import Policy, idempotency_exempt, idempotent
from django_idempotency.operations import audit
from tests.app.urls import router as protected
from tests.protection.conftest import MIDDLEWARE
from tests.protection.zoo import ObjectSet, PaymentSet, Plain, Rest, VipMixin, derived, pay, vip_only


@pytest.fixture
def urls(settings) -> Any:
    """Make a URLconf of *patterns*, or of views at `view0/` and so on."""

    def make(*entries: Any) -> None:
        patterns = [
            entry if hasattr(entry, "pattern") else path(f"view{number}/", entry)
            for number, entry in enumerate(entries)
        ]
        settings.ROOT_URLCONF = type("URLconf", (), {"urlpatterns": patterns})

    return make


@pytest.fixture
def by_middleware(settings) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]


def run(*arguments: str) -> tuple[str, str]:
    """What the command writes to its two streams."""
    out, err = StringIO(), StringIO()
    call_command("idempotency_audit", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def listed(*arguments: str) -> dict[str, str]:
    """The protection of each endpoint."""
    found = json.loads(run("--format", "json", *arguments)[0])["endpoints"]
    return {f"{each['method']} {each['route']}": each["protection"] for each in found}


# --- what is listed ---


def test_each_kind_of_protection(urls, by_middleware):
    """Decorator, mixin, middleware, none and why, on purpose, by definition."""
    urls(
        pay(),
        idempotent(pay()),
        vip_only(pay()),
        idempotency_exempt(pay()),
        Plain.as_view(),
        require_POST(pay()),
        require_GET(pay()),
        require_http_methods(["GET", "PATCH"])(pay()),
        api_view(["GET", "POST", "DELETE"])(pay()),
        path("api/", include(protected.urls)),
        path("admin/", admin.site.urls),
    )

    found = listed()

    assert {name: how for name, how in found.items() if "view" in name} == {
        "any view0/": "middleware",
        "any view1/": "decorator",
        "any view2/": "none",
        "any view3/": "exempt",
        "POST view4/": "middleware",
        "POST view5/": "middleware",
        "PATCH view7/": "middleware",
        "POST view8/": "middleware",
        "DELETE view8/": "idempotent",
    }
    assert found["POST api/^payments/$"] == "mixin"
    assert found["PATCH api/^payments/(?P<pk>[^/.]+)/$"] == "mixin"
    assert found["PUT api/^payments/(?P<pk>[^/.]+)/$"] == "idempotent"
    assert {how for name, how in found.items() if " admin/" in name} == {"exempt"}


async def async_pay(request: Any) -> Any:
    """A view of the project's."""


class AsyncPay(View):
    async def post(self, request: Any) -> Any:
        """A handler of the project's."""


def test_async_views(urls, by_middleware):
    """They are protected like others, behind the guards that await them."""
    urls(
        async_pay,
        idempotent(async_pay),
        login_required(async_pay),
        AsyncPay.as_view(),
        idempotency_exempt(AsyncPay.as_view()),
    )

    assert list(listed().values()) == ["middleware", "decorator", "middleware", "middleware", "exempt"]


def test_without_the_middleware(urls):
    """What it would protect is unprotected, and the reason says so."""
    urls(pay(), idempotent(pay()), vip_only(pay()))

    found = list(audit.endpoints())

    assert [each.protection for each in found] == ["none", "decorator", "none"]
    assert "not in MIDDLEWARE" in found[0].why
    assert "vip_only is not known" in found[2].why


def test_what_a_row_says(urls, by_middleware, settings):
    """View, options that differ from the defaults, guards, and why not."""
    settings.IDEMPOTENCY = {"REQUIRED": True, "TTL": timedelta(hours=24)}
    urls(
        derived(Rest, idempotency=Policy(ttl=timedelta(days=7))).as_view(),
        login_required(Plain.as_view()),
        ObjectSet.as_view({"post": "settle"}),
        idempotent(methods=["PUT"])(require_POST(pay())),
    )

    first, second, third, fourth = audit.endpoints()

    assert first.view == "tests.protection.zoo.Derived"
    assert first.options == {"required": "True", "ttl": "datetime.timedelta(days=7)"}
    assert first.guards == ("TokenAuthentication", "IsAuthenticated")
    assert second.guards == ("login_required",)
    assert (third.protection, third.guards[-1]) == ("none", "IsVipsObject")
    assert "object permissions" in third.why
    assert (fourth.method, fourth.protection, fourth.why) == ("POST", "none", "its option `methods` does not name it")


def test_a_dispatch_of_the_projects_own_is_shown(urls, by_middleware):
    """What it answers by itself is not protected. Django's own is not shown, behind Django's decorators or not."""
    urls(
        type("Own", (VipMixin, Plain), {}).as_view(),
        method_decorator(vip_only, name="dispatch")(type("Decorated", (Plain,), {})).as_view(),
        method_decorator([never_cache, login_required], name="dispatch")(type("Known", (Plain,), {})).as_view(),
        Plain.as_view(),
        Rest.as_view(),
    )

    found = list(audit.endpoints())

    assert [(each.protection, each.guards) for each in found] == [
        ("middleware", ("VipMixin.dispatch",)),
        ("middleware", ("Decorated.dispatch",)),
        ("middleware", ("login_required",)),
        ("middleware", ()),
        ("middleware", ("TokenAuthentication", "IsAuthenticated")),
    ]


def test_included_urlconfs(urls, by_middleware):
    """Namespaces, i18n_patterns, routers, regular expressions: each route as the URLconf spells it."""
    router = DefaultRouter()
    router.register("payments", PaymentSet, basename="payment")
    urls(
        path("v1/", include((router.urls, "shop"), namespace="v1")),
        re_path(r"^old/(?P<number>\d+)/$", require_POST(pay())),
        *i18n_patterns(path("shop/<slug:name>/", require_POST(pay()))),
    )

    with translation.override("de"):
        found = listed()

    assert found["POST v1/^payments/$"] == "middleware"
    assert found["POST v1/^payments/transfer/$"] == "middleware"
    assert found[r"POST ^old/(?P<number>\d+)/$"] == "middleware"
    assert found["POST en-us/shop/<slug:name>/"] == "middleware"


def test_several_urlconfs(urls, by_middleware, monkeypatch):
    """For projects that choose one per host."""
    for name in ("one", "two"):
        module = ModuleType(f"urls_{name}")
        module.urlpatterns = [path(f"{name}/", require_POST(pay()))]
        monkeypatch.setitem(sys.modules, f"urls_{name}", module)

    assert listed("--urlconf", "urls_one", "--urlconf", "urls_two") == {
        "POST one/": "middleware",
        "POST two/": "middleware",
    }


def test_the_table(urls, by_middleware):
    """A line for each endpoint, and the sums; nothing that a terminal would obey."""
    urls(login_required(Plain.as_view()), vip_only(pay()), re_path("^odd\x1b[2J$", require_POST(pay())))

    text, _ = run()

    lines = text.splitlines()
    assert lines[0].split()[:4] == ["METHOD", "ROUTE", "VIEW", "PROTECTION"]
    assert lines[1].split()[:5] == ["POST", "view0/", "tests.protection.zoo.Plain", "middleware", "login_required"]
    assert "vip_only is not known" in lines[2]
    assert "\x1b" not in text
    assert lines[-1] == (
        "3 unsafe endpoints: 2 protected, 0 left out on purpose, 0 idempotent by definition, 1 unprotected."
    )


def test_two_thousand_routes(urls, by_middleware):
    """In under two seconds; the bound here leaves room for a slow machine."""
    urls(*(login_required(derived(Plain).as_view()) for _ in range(2000)))
    began = time.monotonic()

    assert len(listed()) == 2000
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("urlconf", ["no.such.urls", "json"])
def test_a_urlconf_that_cannot_be_read(urlconf):
    """It is named, with the error."""
    with pytest.raises(CommandError, match=urlconf):
        run("--urlconf", urlconf)


# --- the baseline ---


@pytest.fixture
def file(tmp_path) -> Any:
    return tmp_path / "baseline.json"


def test_a_new_unprotected_endpoint_fails(urls, by_middleware, file):
    """With what it is, why, and how to accept it; once accepted, it passes."""
    urls(vip_only(pay()))
    run("--baseline", str(file), "--update-baseline")
    run("--baseline", str(file))
    urls(vip_only(pay()), pay(), vip_only(require_POST(pay())))

    with pytest.raises(CommandError) as error:
        run("--baseline", str(file))

    text = str(error.value)
    assert "1 unprotected endpoint(s)" in text
    assert "POST view2/" in text
    assert "view0/" not in text
    assert "vip_only is not known" in text
    assert f"manage.py idempotency_audit --baseline {file} --update-baseline" in text
    run("--baseline", str(file), "--update-baseline")
    run("--baseline", str(file))


def test_what_is_left_out_on_purpose_needs_no_baseline(urls, by_middleware, file, settings):
    """Marked, exempt by a pattern, a login."""
    settings.IDEMPOTENCY = {"EXEMPT": ["view1/"]}
    urls(idempotency_exempt(pay()), pay(), path("login/", pay(), name="login"))
    file.write_text(audit.write_baseline([]))

    run("--baseline", str(file))


def test_a_route_that_PROTECT_does_not_name_is_unprotected(urls, by_middleware, file, settings):
    """Nobody has left it out on purpose."""
    settings.IDEMPOTENCY = {"PROTECT": ["view0/"]}
    urls(pay(), pay())
    file.write_text(audit.write_baseline([]))

    with pytest.raises(CommandError, match="any view1/"):
        run("--baseline", str(file))


def test_what_a_baseline_needs_no_more(urls, by_middleware, file):
    """It is said, and is no failure."""
    urls(vip_only(pay()))
    run("--baseline", str(file), "--update-baseline")
    urls(pay())

    assert "any view0/" in run("--baseline", str(file))[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "not written by this command"),
        ('{"format": "other", "unprotected": []}', "not written by this command"),
        (json.dumps({"format": audit.FORMAT, "unprotected": "x"}), "no list of texts"),
        (json.dumps({"format": audit.FORMAT}), "no list of texts"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--update-baseline"]], ids=["compared", "updated"])
def test_a_file_that_is_not_ours(urls, by_middleware, file, text, reason, more):
    """It is neither compared with nor overwritten."""
    urls(pay())
    file.write_text(text)

    with pytest.raises(CommandError, match=reason):
        run("--baseline", str(file), *more)
    assert file.read_text() == text


def test_a_file_that_is_not_there(urls, file, tmp_path):
    """Nor can be read or written."""
    urls(pay())
    with pytest.raises(CommandError, match="--update-baseline writes it"):
        run("--baseline", str(file))
    with pytest.raises(CommandError, match="cannot be read"):
        run("--baseline", str(tmp_path))
    with pytest.raises(CommandError, match="cannot be written"):
        run("--baseline", str(tmp_path / "none" / "x.json"), "--update-baseline")


def test_an_update_needs_a_file(urls):
    """--update-baseline alone is a bad argument."""
    urls(pay())

    with pytest.raises(CommandError, match="needs --baseline FILE") as error:
        run("--update-baseline")
    assert error.value.returncode == 2
