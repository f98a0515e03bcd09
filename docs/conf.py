"""Sphinx: the manual, written in Markdown."""

import tomllib
from pathlib import Path

import django_idempotency

metadata = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "django_idempotency"
author = metadata["authors"][0]["name"]
release = version = django_idempotency.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

myst_heading_anchors = 4

html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
html_static_path = ["_static"]  # pictures: pages show them as HTML, for readers of the repository too
