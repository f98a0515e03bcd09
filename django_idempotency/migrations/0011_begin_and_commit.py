"""
On MariaDB and MySQL, a claim that begins its transaction and a record that commits it, around the procedures of 0009
and 0002. Each reply says whether autocommit is on, and the driver sends nothing if that is what Django asks for.
"""

from django.db import migrations

from django_idempotency.migrations._routines import COMPLETE, CreateRoutines

# Autocommit stays off only with a claim, which has a savepoint. Without one nothing is written that it could commit.
BEGIN = """
CREATE PROCEDURE django_idempotency_begin_v1(
    this_digest BINARY(32), new_fingerprint BINARY(32),
    new_scope VARCHAR(255) CHARACTER SET utf8mb4, new_operation VARCHAR(255) CHARACTER SET utf8mb4,
    new_key VARCHAR(255) CHARACTER SET utf8mb4, new_request VARCHAR(255) CHARACTER SET utf8mb4,
    new_request_id VARCHAR(255) CHARACTER SET utf8mb4, ttl BIGINT, uncertain_ttl BIGINT
) MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    SET autocommit = 0;
    CALL django_idempotency_claim_v2('idempotency_0', this_digest, new_fingerprint, new_scope, new_operation, new_key,
        new_request, new_request_id, ttl, uncertain_ttl);
    BEGIN
        DECLARE EXIT HANDLER FOR 1305 SET autocommit = 1;
        ROLLBACK TO SAVEPOINT idempotency_0;
    END;
END
"""
COMMIT = "CREATE " + COMPLETE.format(release="RELEASE SAVEPOINT idempotency_0").replace(
    "complete_v1", "commit_v1"
).replace(
    "SELECT ROW_COUNT();",
    "IF ROW_COUNT() = 1 THEN COMMIT; SET autocommit = 1; SELECT 1; ELSE SELECT 0; END IF;",
)
DROP = (
    "DROP PROCEDURE IF EXISTS django_idempotency_begin_v1",
    "DROP PROCEDURE IF EXISTS django_idempotency_commit_v1",
)


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0010_phased")]

    operations = [CreateRoutines(product, (*DROP, BEGIN, COMMIT), DROP) for product in ("mariadb", "mysql")]
