"""
Unknown outcomes do not expire by themselves: a column says when, if ever, and the second version of the claim's routines
looks at it. Processes of the version before call the first one, which stays.
"""

from django.db import migrations, models

from django_idempotency.migrations._routines import CreateRoutines

LIVE = """CASE WHEN {0}status = 0 THEN {0}uncertain_until IS NULL OR {0}uncertain_until > {1}
        ELSE {0}expires_at > {1} END"""
LIVE_ON_POSTGRESQL = LIVE.format("", "now()")
LIVE_ON_MYSQL = LIVE.format("", "UTC_TIMESTAMP(6)")

POSTGRESQL = (
    f"""
CREATE OR REPLACE FUNCTION django_idempotency_claim_v2(
    lock bigint, new_digest bytea, new_fingerprint bytea, new_scope text, new_operation text, new_key text,
    new_request text, new_request_id text, ttl double precision, uncertain_ttl double precision,
    OUT taken boolean, OUT transaction text,
    OUT found_status smallint, OUT found_fingerprint bytea, OUT found_head bytea, OUT found_body bytea,
    OUT found_request_id text
) LANGUAGE plpgsql SET enable_seqscan = off AS $function$
BEGIN
    SELECT status, fingerprint, head, body, request_id
    INTO found_status, found_fingerprint, found_head, found_body, found_request_id
    FROM django_idempotency_record WHERE digest = new_digest AND {LIVE_ON_POSTGRESQL};
    IF FOUND THEN
        RETURN;
    END IF;
    taken := pg_try_advisory_xact_lock(lock # 'django_idempotency_record'::regclass::oid::bigint);
    IF NOT taken THEN
        RETURN;
    END IF;
    INSERT INTO django_idempotency_record AS r (
        digest, fingerprint, scope, operation, key, request, request_id, status, head, body, executed_at, expires_at,
        uncertain_until
    ) VALUES (
        new_digest, new_fingerprint, new_scope, new_operation, new_key, new_request, new_request_id,
        0, '', '', now(), now() + ttl * interval '1 second', now() + uncertain_ttl * interval '1 second'
    ) ON CONFLICT (digest) DO UPDATE SET
        fingerprint = excluded.fingerprint, scope = excluded.scope, operation = excluded.operation,
        key = excluded.key, request = excluded.request, request_id = excluded.request_id, status = 0,
        head = '', body = '', executed_at = excluded.executed_at, expires_at = excluded.expires_at,
        uncertain_until = excluded.uncertain_until
    WHERE NOT {LIVE.format("r.", "now()")};
    IF FOUND THEN
        transaction := pg_current_xact_id()::text;
        RETURN;
    END IF;
    SELECT status, fingerprint, head, body, request_id
    INTO found_status, found_fingerprint, found_head, found_body, found_request_id
    FROM django_idempotency_record WHERE digest = new_digest AND {LIVE_ON_POSTGRESQL};
    IF FOUND THEN
        taken := NULL;
    END IF;
END
$function$
""",  # noqa: S608
)
DROP_POSTGRESQL = (
    "DROP FUNCTION IF EXISTS django_idempotency_claim_v2(bigint, bytea, bytea, text, text, text, text, text,"
    " double precision, double precision)",
)
DROP_PROCEDURE = "DROP PROCEDURE IF EXISTS django_idempotency_claim_v2"

PARAMETERS = """
    savepoint_name VARCHAR(64), this_digest BINARY(32), new_fingerprint BINARY(32),
    new_scope VARCHAR(255) CHARACTER SET utf8mb4, new_operation VARCHAR(255) CHARACTER SET utf8mb4,
    new_key VARCHAR(255) CHARACTER SET utf8mb4, new_request VARCHAR(255) CHARACTER SET utf8mb4,
    new_request_id VARCHAR(255) CHARACTER SET utf8mb4, ttl BIGINT, uncertain_ttl BIGINT
"""
COLUMNS = """digest, fingerprint, scope, operation, `key`, request, request_id,
                status, head, body, executed_at, expires_at, uncertain_until"""
VALUES = """this_digest, new_fingerprint, new_scope, new_operation, new_key, new_request, new_request_id,
                0, '', '', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ttl MICROSECOND,
                UTC_TIMESTAMP(6) + INTERVAL uncertain_ttl MICROSECOND"""
RENEW = """UPDATE django_idempotency_record SET
                fingerprint = new_fingerprint, scope = new_scope, operation = new_operation, `key` = new_key,
                request = new_request, request_id = new_request_id, status = 0, head = '', body = '',
                executed_at = UTC_TIMESTAMP(6), expires_at = UTC_TIMESTAMP(6) + INTERVAL ttl MICROSECOND,
                uncertain_until = UTC_TIMESTAMP(6) + INTERVAL uncertain_ttl MICROSECOND
            WHERE digest = this_digest"""

LOOK_ON_MARIADB = f"""
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            SELECT MAX({LIVE_ON_MYSQL}) INTO live
            FROM django_idempotency_record WHERE digest = this_digest;"""  # noqa: S608
MARIADB = (
    f"""
CREATE OR REPLACE PROCEDURE django_idempotency_claim_v2({PARAMETERS}) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE live, changed INT DEFAULT NULL;
    DECLARE snapshot INT DEFAULT @@tx_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ');
    DECLARE EXIT HANDLER FOR 1205 SELECT 'in flight', '', '', '', '', '';
    IF snapshot THEN {LOOK_ON_MARIADB}
    END IF;
    IF live IS NULL THEN
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR
            INSERT IGNORE INTO django_idempotency_record ({COLUMNS}) VALUES ({VALUES});
        SET changed = ROW_COUNT();
        IF changed = 0 AND NOT snapshot THEN {LOOK_ON_MARIADB}
        END IF;
    END IF;
    IF live = 0 THEN
        SET STATEMENT innodb_lock_wait_timeout = 0 FOR {RENEW} AND NOT {LIVE_ON_MYSQL};
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
            FROM django_idempotency_record WHERE digest = this_digest AND {LIVE_ON_MYSQL} LOCK IN SHARE MODE;
    END IF;
END
""",  # noqa: S608
)

# A procedure cannot set a savepoint whose name is in a variable.
SAVEPOINT = " ".join(f"WHEN 'idempotency_{depth}' THEN SAVEPOINT idempotency_{depth};" for depth in range(8))
LOOK_ON_MYSQL = f"""
        SELECT {LIVE_ON_MYSQL}, status, fingerprint, head, body, request_id
        INTO live, found_status, found_fingerprint, found_head, found_body, found_request_id
        FROM django_idempotency_record WHERE digest = this_digest"""  # noqa: S608
MYSQL = (
    DROP_PROCEDURE,
    f"""
CREATE PROCEDURE django_idempotency_claim_v2({PARAMETERS}) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE live, changed, found_status INT DEFAULT NULL;
    DECLARE found_fingerprint BINARY(32);
    DECLARE found_head, found_body LONGBLOB;
    DECLARE found_request_id VARCHAR(255) CHARACTER SET utf8mb4;
    DECLARE EXIT HANDLER FOR 1205, 3572 SELECT 'in flight', '', '', '', '', '';
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    DECLARE CONTINUE HANDLER FOR 1062 BEGIN END;
    IF @@transaction_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ') THEN {LOOK_ON_MYSQL};
    ELSEIF @@transaction_isolation = 'READ-UNCOMMITTED' THEN {LOOK_ON_MYSQL} FOR SHARE NOWAIT;
    END IF;
    IF live IS NULL THEN
        INSERT INTO django_idempotency_record ({COLUMNS}) SELECT {VALUES}
        FROM DUAL WHERE NOT EXISTS (
            SELECT 1 FROM django_idempotency_record WHERE digest = IF((
                SELECT COUNT(*) FROM django_idempotency_slot
                WHERE slot IN (SUBSTR(this_digest, 1, 2), SUBSTR(this_digest, 3, 2), SUBSTR(this_digest, 5, 2))
                FOR UPDATE SKIP LOCKED
            ) > 0, NULL, this_digest) FOR SHARE NOWAIT
        );
        SET changed = ROW_COUNT();
        IF changed < 1 THEN {LOOK_ON_MYSQL} FOR SHARE NOWAIT;
        END IF;
    END IF;
    IF live = 0 THEN {LOOK_ON_MYSQL} FOR UPDATE NOWAIT;
        IF live = 0 THEN
            {RENEW};
            SET changed = ROW_COUNT();
        END IF;
    END IF;
    IF changed = 1 THEN
        CASE savepoint_name {SAVEPOINT} END CASE;
        SELECT 'claimed', '', '', '', '', '';
    ELSE
        SELECT 'record', found_status, found_fingerprint, found_head, found_body, found_request_id
        FROM DUAL WHERE live = 1;
    END IF;
END
""",  # noqa: S608
)


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0008_observed")]

    operations = [
        migrations.AddField(
            model_name="idempotencyrecord",
            name="uncertain_until",
            field=models.DateTimeField(blank=True, null=True, verbose_name="unknown until"),
        ),
        CreateRoutines("postgresql", POSTGRESQL, DROP_POSTGRESQL),
        CreateRoutines("mariadb", MARIADB, (DROP_PROCEDURE,)),
        CreateRoutines("mysql", MYSQL, (DROP_PROCEDURE,)),
    ]
