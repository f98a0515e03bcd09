"""
The claim and the record as procedures of MySQL, and the table of slots. Protocol and locks are those of the plain
statements in `stores/database/mysql.py`, so that processes with and without procedures see each other's claims.
"""

from django.db import migrations

from django_idempotency.migrations._routines import COMPLETE, DROP_PROCEDURES, CreateRoutines

# Its rows are only locked, never written (see `MySQL`).
SLOTS = (
    "CREATE TABLE IF NOT EXISTS django_idempotency_slot (slot BINARY(2) PRIMARY KEY) ENGINE = InnoDB",
    """
INSERT IGNORE INTO django_idempotency_slot
    WITH RECURSIVE numbers AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 255)
    SELECT UNHEX(CONCAT(LPAD(HEX(a.n), 2, '0'), LPAD(HEX(b.n), 2, '0'))) FROM numbers a, numbers b
""",
)

# A procedure cannot set a savepoint whose name is in a variable.
NAMES = [f"idempotency_{depth}" for depth in range(8)]


def each_savepoint(verb: str) -> str:
    return " ".join(f"WHEN '{name}' THEN {verb} {name};" for name in NAMES)


LOOK = """
        SELECT expires_at > UTC_TIMESTAMP(6), status, fingerprint, head, body, request_id
        INTO live, found_status, found_fingerprint, found_head, found_body, found_request_id
        FROM django_idempotency_record WHERE digest = this_digest"""

PROCEDURES = (
    "DROP PROCEDURE IF EXISTS django_idempotency_claim_v1",
    f"""
CREATE PROCEDURE django_idempotency_claim_v1(
    savepoint_name VARCHAR(64), this_digest BINARY(32), new_fingerprint BINARY(32),
    new_scope VARCHAR(255) CHARACTER SET utf8mb4, new_operation VARCHAR(255) CHARACTER SET utf8mb4,
    new_key VARCHAR(255) CHARACTER SET utf8mb4, new_request VARCHAR(255) CHARACTER SET utf8mb4,
    new_request_id VARCHAR(255) CHARACTER SET utf8mb4, ttl BIGINT
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE live, changed, found_status INT DEFAULT NULL;
    DECLARE found_fingerprint BINARY(32);
    DECLARE found_head, found_body LONGBLOB;
    DECLARE found_request_id VARCHAR(255) CHARACTER SET utf8mb4;
    DECLARE EXIT HANDLER FOR 1205, 3572 SELECT 'in flight', '', '', '', '', '';
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    DECLARE CONTINUE HANDLER FOR 1062 BEGIN END;
    IF @@transaction_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ') THEN {LOOK};
    ELSEIF @@transaction_isolation = 'READ-UNCOMMITTED' THEN {LOOK} FOR SHARE NOWAIT;
    END IF;
    IF live IS NULL THEN
        INSERT INTO django_idempotency_record (
            digest, fingerprint, scope, operation, `key`, request, request_id,
            status, head, body, executed_at, expires_at
        ) SELECT
            this_digest, new_fingerprint, new_scope, new_operation, new_key, new_request, new_request_id,
            0, '', '', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ttl MICROSECOND
        FROM DUAL WHERE NOT EXISTS (
            SELECT 1 FROM django_idempotency_record WHERE digest = IF((
                SELECT COUNT(*) FROM django_idempotency_slot
                WHERE slot IN (SUBSTR(this_digest, 1, 2), SUBSTR(this_digest, 3, 2), SUBSTR(this_digest, 5, 2))
                FOR UPDATE SKIP LOCKED
            ) > 0, NULL, this_digest) FOR SHARE NOWAIT
        );
        SET changed = ROW_COUNT();
        IF changed < 1 THEN {LOOK} FOR SHARE NOWAIT;
        END IF;
    END IF;
    IF live = 0 THEN {LOOK} FOR UPDATE NOWAIT;
        IF live = 0 THEN
            UPDATE django_idempotency_record SET
                fingerprint = new_fingerprint, scope = new_scope, operation = new_operation, `key` = new_key,
                request = new_request, request_id = new_request_id, status = 0, head = '', body = '',
                executed_at = UTC_TIMESTAMP(6), expires_at = UTC_TIMESTAMP(6) + INTERVAL ttl MICROSECOND
            WHERE digest = this_digest;
            SET changed = ROW_COUNT();
        END IF;
    END IF;
    IF changed = 1 THEN
        CASE savepoint_name {each_savepoint("SAVEPOINT")} END CASE;
        SELECT 'claimed', '', '', '', '', '';
    ELSE
        SELECT 'record', found_status, found_fingerprint, found_head, found_body, found_request_id
        FROM DUAL WHERE live = 1;
    END IF;
END
""",  # noqa: S608
    "DROP PROCEDURE IF EXISTS django_idempotency_complete_v1",
    "CREATE " + COMPLETE.format(release=f"CASE savepoint_name {each_savepoint('RELEASE SAVEPOINT')} END CASE"),
)


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0003_decision_count")]

    operations = [
        CreateRoutines("mysql", SLOTS, ("DROP TABLE IF EXISTS django_idempotency_slot",)),
        CreateRoutines("mysql", PROCEDURES, DROP_PROCEDURES),
    ]
