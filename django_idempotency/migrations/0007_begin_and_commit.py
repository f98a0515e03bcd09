"""
On MariaDB and MySQL, the claim that begins the transaction and the record that ends it, as procedures: the same
protocol as those of 0002 and 0004, under the same locks, so that processes with the one and with the other meet.

`begin` turns autocommit off, and leaves it off only with a claim. Without one it has written nothing, so that turning
autocommit on commits nothing of ours. `commit` ends the transaction only when it has written one row.
"""

from django.db import migrations

from django_idempotency.migrations._routines import CreateRoutines

BEGIN_PARAMETERS = """
    this_digest BINARY(32), new_fingerprint BINARY(32),
    new_scope VARCHAR(255) CHARACTER SET utf8mb4, new_operation VARCHAR(255) CHARACTER SET utf8mb4,
    new_key VARCHAR(255) CHARACTER SET utf8mb4, new_request VARCHAR(255) CHARACTER SET utf8mb4,
    new_request_id VARCHAR(255) CHARACTER SET utf8mb4, ttl BIGINT"""

# An interrupted statement (KILL QUERY) passes by every handler, on MySQL: then the client closes its connection.
ON_ERROR = """
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        SET autocommit = 1;
        RESIGNAL;
    END;"""

IN_FLIGHT = """
    BEGIN
        IF changed = 1 THEN
            ROLLBACK;
        END IF;
        SET autocommit = 1;
        SELECT 'in flight', '', '', '', '', '';
    END;"""

DROP = (
    "DROP PROCEDURE IF EXISTS django_idempotency_begin_v1",
    "DROP PROCEDURE IF EXISTS django_idempotency_commit_v1",
)

COMMIT = """
CREATE PROCEDURE django_idempotency_commit_v1(
    new_status INT, new_head LONGBLOB, new_body LONGBLOB, this_digest BINARY(32)
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE written INT;
    RELEASE SAVEPOINT idempotency_0;
    UPDATE django_idempotency_record SET
        status = new_status, head = new_head, body = new_body,
        expires_at = IF(
            TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) * 100
            > TIMESTAMPDIFF(MICROSECOND, executed_at, expires_at),
            expires_at + INTERVAL TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) MICROSECOND, expires_at)
    WHERE digest = this_digest AND status = 0;
    SET written = ROW_COUNT();
    IF written = 1 THEN
        COMMIT;
        SET autocommit = 1;
    END IF;
    SELECT written;
END
"""

MARIADB = f"""
CREATE PROCEDURE django_idempotency_begin_v1({BEGIN_PARAMETERS}
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE live, changed INT DEFAULT NULL;
    DECLARE snapshot INT DEFAULT @@tx_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ');{ON_ERROR}
    DECLARE EXIT HANDLER FOR 1205{IN_FLIGHT}
    SET autocommit = 0;
    IF snapshot THEN
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            SELECT MAX(expires_at > UTC_TIMESTAMP(6)) INTO live
            FROM django_idempotency_record WHERE digest = this_digest;
    END IF;
    IF live IS NULL THEN
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            INSERT IGNORE INTO django_idempotency_record (
                digest, fingerprint, scope, operation, `key`, request, request_id,
                status, head, body, executed_at, expires_at
            ) VALUES (
                this_digest, new_fingerprint, new_scope, new_operation, new_key, new_request, new_request_id,
                0, '', '', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ttl MICROSECOND
            );
        SET changed = ROW_COUNT();
        IF changed = 0 AND NOT snapshot THEN
            SET STATEMENT innodb_lock_wait_timeout = 0 FOR
                SELECT MAX(expires_at > UTC_TIMESTAMP(6)) INTO live
                FROM django_idempotency_record WHERE digest = this_digest;
        END IF;
    END IF;
    IF live = 0 THEN
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            UPDATE django_idempotency_record SET
                fingerprint = new_fingerprint, scope = new_scope, operation = new_operation, `key` = new_key,
                request = new_request, request_id = new_request_id, status = 0, head = '', body = '',
                executed_at = UTC_TIMESTAMP(6), expires_at = UTC_TIMESTAMP(6) + INTERVAL ttl MICROSECOND
            WHERE digest = this_digest AND expires_at <= UTC_TIMESTAMP(6);
        SET changed = ROW_COUNT();
    END IF;
    IF changed = 1 THEN
        SAVEPOINT idempotency_0;
        SELECT 'claimed', '', '', '', '', '';
    ELSE
        IF live = 1 THEN
            SET STATEMENT innodb_lock_wait_timeout = 0 FOR
                SELECT 'record', status, fingerprint, head, body, request_id
                FROM django_idempotency_record WHERE digest = this_digest;
        ELSE
            SET STATEMENT innodb_lock_wait_timeout = 0 FOR
                SELECT 'record', status, fingerprint, head, body, request_id
                FROM django_idempotency_record
                WHERE digest = this_digest AND expires_at > UTC_TIMESTAMP(6) LOCK IN SHARE MODE;
        END IF;
        SET autocommit = 1;
    END IF;
END
"""  # noqa: S608

LOOK = """
        SELECT expires_at > UTC_TIMESTAMP(6), status, fingerprint, head, body, request_id
        INTO live, found_status, found_fingerprint, found_head, found_body, found_request_id
        FROM django_idempotency_record WHERE digest = this_digest"""

MYSQL = f"""
CREATE PROCEDURE django_idempotency_begin_v1({BEGIN_PARAMETERS}
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE live, changed, found_status INT DEFAULT NULL;
    DECLARE found_fingerprint BINARY(32);
    DECLARE found_head, found_body LONGBLOB;
    DECLARE found_request_id VARCHAR(255) CHARACTER SET utf8mb4;{ON_ERROR}
    DECLARE EXIT HANDLER FOR 1205, 3572{IN_FLIGHT}
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    DECLARE CONTINUE HANDLER FOR 1062 BEGIN END;
    SET autocommit = 0;
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
        SAVEPOINT idempotency_0;
        SELECT 'claimed', '', '', '', '', '';
    ELSE
        SET autocommit = 1;
        SELECT 'record', found_status, found_fingerprint, found_head, found_body, found_request_id
        FROM DUAL WHERE live = 1;
    END IF;
END
"""  # noqa: S608


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0006_ignored_keys")]

    operations = [
        CreateRoutines("mariadb", (*DROP, MARIADB, COMMIT), DROP),
        CreateRoutines("mysql", (*DROP, MYSQL, COMMIT), DROP),
    ]
