"""Sphinx: the manual, written in Markdown."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

sys.path.insert(0, str(ROOT))  # for docs.rooms
settings.configure(  # the reference is made by importing the package
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "django_idempotency",
    ],
    USE_TZ=True,
)
django.setup()

import django_idempotency  # noqa: E402 after Django is set up

project = "django_idempotency"
author = metadata["authors"][0]["name"]
release = version = django_idempotency.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs.rooms"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # annotations name classes of Django, DRF and rooms that are not public
default_role = "code"  # a single backtick in a docstring

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False

myst_heading_anchors = 4

html_theme = "furo"
html_title = f"django-idempotency {version}"
html_show_copyright = False
html_static_path = ["_static"]  # pictures: pages show them as HTML, for readers of the repository too
html_css_files = ["rooms.css"]


def show_code(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are Markdown: an indented paragraph is code, which reStructuredText marks with `::`."""
    text = re.sub(r"(^|\n)(?=\S)([^\n]*)\n\n(?=    )", r"\1\2\n\n::\n\n", "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", show_code)
