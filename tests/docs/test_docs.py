"""README and manual are true: their code runs, their tables match the code, their links lead somewhere."""

import re
import subprocess
import sys
import tomllib
from datetime import timedelta

import pytest

import django_idempotency
from django_idempotency import exceptions
from django_idempotency.core.policy import DEFAULTS, ONCE_OPTIONS
from tests.docs.pages import DOCS, ROOT, blocks, headings, links, pages, slug, table, text

REFERENCE = DOCS / "reference"
PAGES = [str(page.relative_to(ROOT)) for page in pages()]
WITH_CODE = [name for name in PAGES if any(blocks(ROOT / name))]
CHECK_ID = re.compile(r"django_idempotency\.[EWI]\d{3}")


def code(cell: str) -> str:
    """The text of *cell* between backticks, or all of it."""
    found = re.search(r"`([^`]+)`", cell)
    return found[1] if found else cell


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name):
    """Complete blocks run, fragments compile, mistakes raise, and each view answers a retry with its first answer."""
    # A project of its own, so an interpreter of its own: Django can be set up once in a process.
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.project", name], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_first_screen_protects_a_view():
    """README's example is within its first 60 lines, runs, and its view is among those that are sent a retry."""
    first = next(block for block in blocks(ROOT / "README.md") if block.kind == "complete")
    assert first.line + first.text.count("\n") <= 60
    assert "@idempotent" in first.text


def test_the_first_example_gives_no_warning():
    """In a new project, with DRF's own defaults: neither `migrate` nor `check` complains of what a newcomer copies."""
    code = f"""
import sys, types
import django
from django.conf import settings
from django.core.management import call_command
from django.urls import path
sys.path.insert(0, {str(ROOT / "tests" / "docs")!r})
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework", "django_idempotency",
                    "shop"],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:",
                           "OPTIONS": {{"transaction_mode": "IMMEDIATE"}}}}}},
    ROOT_URLCONF="page", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
page = sys.modules["page"] = types.ModuleType("page")
exec({next(block for block in blocks(ROOT / "README.md") if block.kind == "complete").text!r}, vars(page))
page.urlpatterns = [path("payments/", page.create_payment)]
call_command("migrate", run_syncdb=True, verbosity=0)
call_command("check", fail_level="WARNING", databases=["default"])
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == "System check identified no issues (0 silenced).\n"


def test_the_readme_is_short():
    """STYLE: 500 to 900 words, its code included."""
    assert 500 <= len(text(ROOT / "README.md").split()) <= 900


def test_the_option_table_is_the_policys():
    """Names, their order and defaults are those of the code; a column says which options `@once` takes."""
    rows = table(REFERENCE / "options.md", "option", "default")
    shown = {code(row["option"]): eval(code(row["default"]), {"timedelta": timedelta}) for row in rows}  # noqa: S307
    shown["methods"] = frozenset(shown["methods"])

    assert list(shown) == list(DEFAULTS)
    assert shown == dict(DEFAULTS)
    assert [code(row["option"]) for row in rows if row["`@once`"] == "yes"] == [
        name for name in DEFAULTS if name in ONCE_OPTIONS
    ]


def test_each_option_has_a_heading():
    """Every option has a heading, and there are no others."""
    assert set(DEFAULTS) == {
        heading.strip("`") for heading in headings(REFERENCE / "options.md") if heading.startswith("`")
    }


def refusals() -> list[type[exceptions.Refusal]]:
    """In the order of the module."""
    found = [value for value in vars(exceptions).values() if isinstance(value, type)]
    return [error for error in found if issubclass(error, exceptions.Refusal) and error is not exceptions.Refusal]


def test_each_refusal_has_a_heading():
    """One heading per code, which is its anchor too, so that `docs_url` can point there; the table gives its status."""
    codes = [refusal.code for refusal in refusals()]
    found = headings(REFERENCE / "errors.md")

    assert [heading for heading in found if re.fullmatch(r"[a-z]+-[a-z-]+", heading)] == codes
    assert [slug(heading) for heading in found if heading in codes] == codes
    shown = [
        (code(row["code"]), int(row["status"]), row["`Retry-After`"])
        for row in table(REFERENCE / "errors.md", "code", "status")
    ]
    expected = [(each.code, each.status, str(each.retry_after or "none")) for each in refusals()]
    assert shown == expected


def test_each_other_error_has_a_heading():
    """Every exception that is neither a refusal nor a base class has a heading with its cause and its remedy."""
    bases = {"IdempotencyError", "Refusal", "HandlerError"}
    names = set(exceptions.__all__) - bases - {refusal.__name__ for refusal in refusals()}

    assert names == {heading for heading in headings(REFERENCE / "errors.md") if heading in exceptions.__all__}


def test_each_check_has_a_heading_and_each_heading_a_check():
    """The ids in the package's code are those of the page."""
    sources = (ROOT / "django_idempotency").glob("**/*.py")
    in_code = {found for source in sources for found in CHECK_ID.findall(source.read_text(encoding="utf-8"))}
    in_page = {found for heading in headings(REFERENCE / "checks.md") for found in CHECK_ID.findall(heading)}

    assert in_page == in_code


def test_the_generated_reference_has_each_public_module():
    """What a project may import, each module once. The rest of the package is not public."""
    public = [
        "rest_framework",
        "renderers",
        "contrib.ninja",
        "client",
        "client.httpx",
        "client.requests",
        "contrib.opentelemetry",
        "contrib.prometheus",
        "contrib.spectacular",
        "operations.openapi",
        "middleware",
        "exceptions",
        "fingerprints",
        "keys",
        "moving",
        "profiles",
        "receipts",
        "probes",
        "outcomes",
    ]
    public += ["admin", "signals", "testing", "encryption", "stores.database", "stores.redis", "stores.base"]
    expected = ["django_idempotency", *(f"django_idempotency.{module}" for module in public)]

    assert [code(heading) for heading in headings(REFERENCE / "api.md") if heading.startswith("`")] == expected
    page = text(REFERENCE / "api.md")
    assert re.findall(r"^\.\. (?:auto|current)module:: (\S+)$", page, re.MULTILINE) == expected
    shown = re.findall(r"^\.\. auto(?:function|class):: (\S+)$", page, re.MULTILINE)
    assert set(django_idempotency.__all__) <= set(shown)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    """A link inside the repository leads to an existing file and, with an anchor, to a heading in it."""
    page = ROOT / name
    for shown, target in links(page):
        assert shown, f"{name} links to {target} without a text, which only Sphinx shows"
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in [slug(heading) for heading in headings(there)], f"{name} links to {target}"


def test_each_page_is_in_the_manual():
    """The table of contents names every page, and no other."""
    contents = re.findall(r"```\{toctree\}[^`]*```", text(DOCS / "index.md"))
    named = {
        line.strip()
        for block in contents
        for line in block.splitlines()[1:-1]
        if re.fullmatch(r"[a-z/-]+", line.strip())
    }

    assert named == {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.glob("**/*.md")} - {"index"}


def test_the_readme_names_the_versions_of_the_classifiers():
    """Python and Django versions: those of pyproject.toml, all of them and no others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    expected = {"Python": set(), "Django": set()}
    for classifier in project["classifiers"]:
        found = re.fullmatch(r"(?:Programming Language|Framework) :: (Python|Django) :: (\d+\.\d+)", classifier)
        if found:
            expected[found[1]].add(found[2])
    shown = {
        row["versions of"]: set(re.findall(r"\d+\.\d+", row["supported"]))
        for row in table(ROOT / "README.md", "versions of", "supported")
    }

    assert {name: shown[name] for name in expected} == expected


def test_the_changelog_has_this_version():
    """Keep a Changelog: the package's version has a heading."""
    assert any(heading.startswith(f"[{django_idempotency.__version__}]") for heading in headings(ROOT / "CHANGELOG.md"))


@pytest.mark.parametrize("name", PAGES)
def test_no_path_of_a_machine(name):
    """No page names a folder of the machine that it was written on."""
    assert not re.search(r"(?<![\w.])/(work|home|tmp|root|Users)/", text(ROOT / name))
