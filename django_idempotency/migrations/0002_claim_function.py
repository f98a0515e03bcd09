"""
The claim and the record as routines of the server, which keeps their plans. Protocol and locks are those of the plain
statements in `stores/database/`, so that processes with and without routines see each other's claims.

A change of their behaviour is a new version under a new name, in a new migration. The old one is dropped a release
later, when no process calls it any more.
"""

from django.db import migrations

from django_idempotency.migrations._routines import COMPLETE, DROP_PROCEDURES, CreateRoutines

# At READ COMMITTED each statement of a volatile function has a snapshot of its own, so the second look sees what a rival
# committed between the first one and the lock. Names are resolved by the caller's search_path, as the table's are.
# There are no sequential scans, because the kept plan of a small table would be slow on a large one.
POSTGRESQL = (
    """
CREATE OR REPLACE FUNCTION django_idempotency_claim_v1(
    lock bigint, new_digest bytea, new_fingerprint bytea, new_scope text, new_operation text, new_key text,
    new_request text, new_request_id text, ttl double precision,
    OUT taken boolean, OUT transaction text,
    OUT found_status smallint, OUT found_fingerprint bytea, OUT found_head bytea, OUT found_body bytea,
    OUT found_request_id text
) LANGUAGE plpgsql SET enable_seqscan = off AS $function$
BEGIN
    SELECT status, fingerprint, head, body, request_id
    INTO found_status, found_fingerprint, found_head, found_body, found_request_id
    FROM django_idempotency_record WHERE digest = new_digest AND expires_at > now();
    IF FOUND THEN
        RETURN;
    END IF;
    taken := pg_try_advisory_xact_lock(lock # 'django_idempotency_record'::regclass::oid::bigint);
    IF NOT taken THEN
        RETURN;
    END IF;
    INSERT INTO django_idempotency_record AS r (
        digest, fingerprint, scope, operation, key, request, request_id, status, head, body, executed_at, expires_at
    ) VALUES (
        new_digest, new_fingerprint, new_scope, new_operation, new_key, new_request, new_request_id,
        0, '', '', now(), now() + ttl * interval '1 second'
    ) ON CONFLICT (digest) DO UPDATE SET
        fingerprint = excluded.fingerprint, scope = excluded.scope, operation = excluded.operation,
        key = excluded.key, request = excluded.request, request_id = excluded.request_id, status = 0,
        head = '', body = '', executed_at = excluded.executed_at, expires_at = excluded.expires_at
    WHERE r.expires_at <= now();
    IF FOUND THEN
        transaction := pg_current_xact_id()::text;
        RETURN;
    END IF;
    SELECT status, fingerprint, head, body, request_id
    INTO found_status, found_fingerprint, found_head, found_body, found_request_id
    FROM django_idempotency_record WHERE digest = new_digest AND expires_at > now();
    IF FOUND THEN
        taken := NULL;
    END IF;
END
$function$
""",
    """
CREATE OR REPLACE FUNCTION django_idempotency_complete_v1(
    new_status integer, new_head bytea, new_body bytea, this_digest bytea, transaction text
) RETURNS integer LANGUAGE plpgsql SET enable_seqscan = off AS $function$
DECLARE
    written integer;
BEGIN
    UPDATE django_idempotency_record SET
        status = new_status, head = new_head, body = new_body,
        expires_at = CASE WHEN (clock_timestamp() - executed_at) * 100 > expires_at - executed_at
            THEN expires_at + (clock_timestamp() - executed_at) ELSE expires_at END
    WHERE digest = this_digest AND status = 0 AND pg_current_xact_id() = transaction::xid8;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$function$
""",
)
DROP_POSTGRESQL = (
    "DROP FUNCTION IF EXISTS django_idempotency_claim_v1(bigint, bytea, bytea, text, text, text, text, text,"
    " double precision)",
    "DROP FUNCTION IF EXISTS django_idempotency_complete_v1(integer, bytea, bytea, bytea, text)",
)

# A claim that the handler committed has lost its savepoint, whose name belongs to this claim.
MARIADB = (
    """
CREATE OR REPLACE PROCEDURE django_idempotency_claim_v1(
    savepoint_name VARCHAR(64), this_digest BINARY(32), new_fingerprint BINARY(32),
    new_scope VARCHAR(255) CHARACTER SET utf8mb4, new_operation VARCHAR(255) CHARACTER SET utf8mb4,
    new_key VARCHAR(255) CHARACTER SET utf8mb4, new_request VARCHAR(255) CHARACTER SET utf8mb4,
    new_request_id VARCHAR(255) CHARACTER SET utf8mb4, ttl BIGINT
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE live, changed INT DEFAULT NULL;
    DECLARE snapshot INT DEFAULT @@tx_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ');
    DECLARE EXIT HANDLER FOR 1205 SELECT 'in flight', '', '', '', '', '';
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
        EXECUTE IMMEDIATE CONCAT('SAVEPOINT ', savepoint_name);
        SELECT 'claimed', '', '', '', '', '';
    ELSEIF live = 1 THEN
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            SELECT 'record', status, fingerprint, head, body, request_id
            FROM django_idempotency_record WHERE digest = this_digest;
    ELSE
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            SELECT 'record', status, fingerprint, head, body, request_id
            FROM django_idempotency_record
            WHERE digest = this_digest AND expires_at > UTC_TIMESTAMP(6) LOCK IN SHARE MODE;
    END IF;
END
""",
    "CREATE OR REPLACE " + COMPLETE.format(release="EXECUTE IMMEDIATE CONCAT('RELEASE SAVEPOINT ', savepoint_name)"),
)


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0001_initial")]

    operations = [
        CreateRoutines("postgresql", POSTGRESQL, DROP_POSTGRESQL),
        CreateRoutines("mariadb", MARIADB, DROP_PROCEDURES),
    ]
