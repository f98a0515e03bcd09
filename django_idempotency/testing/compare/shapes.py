"""
The columns of a table by purpose: its primary key, references to other rows, values that differ in each run. They are
read from the model's fields, or from the database's catalogue if the table has no model.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.stores.database.mysql import SLOTS

# Tables that Django itself writes; SQLite's own, whose prefix is reserved (sqlite.org, "Internal Schema Objects"); and
# the rows that a claim locks on MySQL, which never change.
UNSEEN = ("django_migrations", "django_content_type", "django_session", "sqlite_*", SLOTS)
CONTAINERS = (dict, list, set, tuple, str, bytes, int, float, bool)  # as a default: a constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The columns of a table by purpose."""

    key: tuple[str, ...] = ()  # the primary key's; empty if the table has none
    references: dict[str, tuple[str, str]] = field(default_factory=dict)  # column: the table and column it refers to
    made: frozenset[str] = frozenset()  # differ in each run: numbers and random keys
    stamps: frozenset[str] = frozenset()  # auto_now and auto_now_add
    generic: frozenset[str] = frozenset()  # refer to a row of a table that another column names


def own_tables() -> list[str]:
    """The package's own tables."""
    return [model._meta.db_table for model in apps.get_app_config("django_idempotency").get_models()]


def shapes(connection: BaseDatabaseWrapper, cursor: Any, tables: Iterable[str]) -> dict[str, Shape]:
    """The shape of each of *tables*, which must exist."""
    models_of = [model for model in apps.get_models(include_auto_created=True) if not model._meta.proxy]
    # If several share a table, the managed one counts.
    known = {model._meta.db_table: model for model in sorted(models_of, key=lambda model: model._meta.managed)}
    return {
        table: _of_model(known[table]) if table in known else _of_catalogue(connection, cursor, table)
        for table in tables
    }


def _of_model(model: type[models.Model]) -> Shape:
    meta: Any = model._meta
    fields = [each for each in meta.local_concrete_fields if each.column is not None]
    return Shape(
        key=tuple(each.column for each in meta.pk_fields),
        references={
            each.column: (each.target_field.model._meta.db_table, each.target_field.column)
            for each in fields
            if each.remote_field is not None and each.remote_field.model is not None
        },
        made=frozenset(each.column for each in fields if _is_made(each)),
        stamps=frozenset(
            each.column for each in fields if getattr(each, "auto_now", False) or getattr(each, "auto_now_add", False)
        ),
        generic=frozenset(
            meta.get_field(each.fk_field).column for each in meta.private_fields if hasattr(each, "fk_field")
        ),
    )


def _is_made(column: Any) -> bool:
    if isinstance(column, models.AutoField | models.BigAutoField | models.SmallAutoField):
        return True
    default = None if column.default is models.NOT_PROVIDED else column.default
    made = callable(default) and default not in CONTAINERS
    return made and not isinstance(column, models.DateField | models.TimeField | models.JSONField)


def _is_number(introspection: Any, column: Any) -> bool:
    try:
        kind = str(introspection.get_field_type(column.type_code, column))
    except KeyError:  # a type that Django does not know, or on SQLite none at all
        return False
    return "Integer" in kind or "Auto" in kind


def _of_catalogue(connection: BaseDatabaseWrapper, cursor: Any, table: str) -> Shape:
    introspection = connection.introspection
    key = tuple(introspection.get_primary_key_columns(cursor, table) or ())
    numbers = {
        column.name
        for column in introspection.get_table_description(cursor, table)
        if _is_number(introspection, column)
    }
    relations = introspection.get_relations(cursor, table)
    return Shape(
        key=key,
        references={column: (to[1], to[0]) for column, to in relations.items()},
        # A key of one number is taken for a sequence of the database.
        made=frozenset(key) if len(key) == 1 and key[0] in numbers and key[0] not in relations else frozenset(),
    )
