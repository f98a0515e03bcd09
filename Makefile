# Each target installs what it needs into VENV. Python 3.11 or newer on the PATH, or named by PYTHON=..., is enough:
# no database server and no compiler is needed.

PYTHON ?= python3
VENV ?= .venv
# Further requirements that pip has to satisfy, for example WITH="django~=5.2.0".
WITH ?=
# Arguments for pytest, for example ARGS="-k replay", or --database sqlite.
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# What daphne needs builds without a compiler, too, on a Python for which it has no wheel.
export AUTOBAHN_USE_NVX = 0
RUN = $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo run test test-fast test-all mysql coverage lint types imports docs screenshots package bench bench-rivals bench-scale conformance faults format clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.sample ## a payment API under gunicorn, driven through retries, races and kill -9
	$(RUN) -m sample_project.demo

run: $(VENV)/.sample ## the same API with a user and a week of traffic in the admin, to try by hand
	$(RUN) manage.py migrate
	$(RUN) manage.py seed
	$(RUN) manage.py seed_traffic
	$(RUN) -m sample_project.services manage.py runserver

test: $(VENV)/.test ## each promise on SQLite, PostgreSQL, MariaDB and MySQL (if they run) and Redis: 5 to 8 minutes
	$(RUN) -m tests $(ARGS)

test-fast: $(VENV)/.test ## the tests without a database, for the edit loop: under 15 seconds
	$(RUN) -m pytest -n auto --dist loadfile tests/unit $(ARGS)

test-all: $(VENV)/.test ## every configuration, as CI runs them
	$(RUN) -m tests --all $(ARGS)

mysql: ## a MySQL of Debian's unstable suite on 127.0.0.1:3307, where the tests look for one, until Ctrl-C
	.ci/newer mysql 3307 build/mysql

coverage: $(VENV)/.test ## every test in every configuration, with the lines and branches that they reach
	COVERAGE_CORE=sysmon $(RUN) -m coverage run -m tests --all $(ARGS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

lint: $(VENV)/.lint ## ruff: rules and format; codespell
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/codespell

format: $(VENV)/.lint ## let ruff fix what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(VENV)/.types ## mypy, strict
	$(RUN) -m mypy

imports: $(VENV)/.lint ## import-linter: which module may import which
	$(VENV)/bin/lint-imports

docs: $(VENV)/.docs ## the manual as HTML in docs/_build/html
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going docs docs/_build/html

screenshots: $(VENV)/.screenshots ## the pictures of the admin in docs/_static, drawn anew by chromium
	$(RUN) -m docs.screenshots

package: $(VENV)/.package ## wheel and sdist in dist/, each tested in an empty environment
	rm -rf dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*
	$(RUN) -m tests.packaging dist $(WITH)

bench: $(VENV)/.bench ## what protection costs
	$(RUN) -m benchmarks $(ARGS)

bench-rivals: $(VENV)/.bench ## the same view under other packages, each from PyPI in an environment of its own
	RIVALS=$(VENV)-rivals $(RUN) -m benchmarks.rivals

bench-scale: $(VENV)/.bench ## up to ten million records: speed, disk, purge and the admin (takes most of an hour)
	$(RUN) -m benchmarks.scale $(ARGS)

conformance: $(VENV)/.bench ## the conformance kit against this package, and servers of others from PyPI and npm (needs npm)
	CONTENDERS=$(VENV)-conformance $(RUN) -m benchmarks.conformance

faults: $(VENV)/.test ## break network, workers and databases under load (KILLS=10000: so many kills on each database)
	$(RUN) -m benchmarks.faults $(ARGS)

clean: ## remove everything that these targets made
	rm -rf $(VENV) $(VENV)-rivals $(VENV)-conformance .coverage* build dist docs/_build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .tox
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamp of the environment: pip from 25.1 on knows dependency groups, the pip that Python brings may not.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is %s. Name one with PYTHON=..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

# The stamp of a dependency group.
$(VENV)/.%: pyproject.toml $(VENV)/.pip
	$(RUN) -m pip install --quiet --editable . --group $* $(WITH)
	@touch $@
