"""Tests without a database: pytest-django refuses one that asks for it."""

from hypothesis import settings

settings.register_profile("unit", deadline=None)  # a shared machine's pauses are no bug
settings.load_profile("unit")
