"""How a migration makes the routines of a database. They only save time, so a failure is logged."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.db import DatabaseError, router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation, OperationCategory
from django.db.migrations.state import ProjectState

from django_idempotency.engine.transactions import atomic_phase

logger = logging.getLogger("django_idempotency")

DROP_PROCEDURES = (
    "DROP PROCEDURE IF EXISTS django_idempotency_claim_v1",
    "DROP PROCEDURE IF EXISTS django_idempotency_complete_v1",
)
# The record as a procedure of MariaDB and of MySQL, which release the savepoint of the claim in different ways.
COMPLETE = """PROCEDURE django_idempotency_complete_v1(
    savepoint_name VARCHAR(64), new_status INT, new_head LONGBLOB, new_body LONGBLOB, this_digest BINARY(32)
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    {release};
    UPDATE django_idempotency_record SET
        status = new_status, head = new_head, body = new_body,
        expires_at = IF(
            TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) * 100
            > TIMESTAMPDIFF(MICROSECOND, executed_at, expires_at),
            expires_at + INTERVAL TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) MICROSECOND, expires_at)
    WHERE digest = this_digest AND status = 0;
    SELECT ROW_COUNT();
END
"""


class CreateRoutines(Operation):
    """
    Run the statements of *create*, and of *drop* backwards, on databases of *product*: "postgresql", "mariadb" or
    "mysql".
    """

    reversible = True
    reduces_to_sql = True
    category = OperationCategory.SQL
    model_name = "idempotencyrecord"  # for the router, which decides where its table goes

    def __init__(self, product: str, create: Sequence[str], drop: Sequence[str]) -> None:
        self.product = product
        self.create = create
        self.drop = drop

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._run(app_label, schema_editor, self.create)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._run(app_label, schema_editor, self.drop)

    def describe(self) -> str:
        return f"Create the routines of the claim on {self.product}"

    def _run(self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, statements: Sequence[str]) -> None:
        connection: Any = schema_editor.connection
        if self.product != ("mariadb" if getattr(connection, "mysql_is_mariadb", False) else connection.vendor):
            return
        if not router.allow_migrate(connection.alias, app_label, model_name=self.model_name):
            return
        try:
            if connection.features.can_rollback_ddl:
                # In a savepoint, without which an error would end the whole migration.
                atomic_phase(connection.alias, partial(self._execute, schema_editor, statements))
            else:
                self._execute(schema_editor, statements)
        except DatabaseError as error:
            logger.warning(
                "The routines of the claim were not made on database %r: %s. Plain statements serve in their place.",
                connection.alias,
                str(error).strip(),
            )

    def _execute(self, schema_editor: BaseDatabaseSchemaEditor, statements: Sequence[str]) -> None:
        for statement in statements:
            schema_editor.execute(statement, params=None)
