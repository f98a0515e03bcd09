"""The table of records in PostgreSQL's partitions, made by the statements of the page "Growing"."""

import re
import threading
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections, transaction
from django.urls import path, reverse

from django_idempotency.checks.stores import check_databases
from django_idempotency.models import DatabaseNow, IdempotencyRecord
from django_idempotency.operations import table_size
from django_idempotency.operations.purging import purge
from tests.app.models import Payment
from tests.app.serving import PATH, VENDOR, drf, is_replay, post
from tests.app.urls import urlpatterns
from tests.app.views import answer
from tests.operations.records import expired, live
from tests.sharded.project import SHARDS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "growing.md"
STATEMENTS = re.search(r"```sql\nBEGIN;\n(.*?)COMMIT;\n```", PAGE.read_text(), re.DOTALL)[1]
SHARD = SHARDS[0]

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", *SHARDS]),
    pytest.mark.usefixtures("shards"),
    pytest.mark.skipif(VENDOR != "postgresql", reason="PostgreSQL's partitions"),
]


def records():
    return IdempotencyRecord.objects.using(SHARD)


def partition():
    with connections[SHARD].cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(STATEMENTS)
        cursor.execute("COMMIT")


def is_partitioned():
    with connections[SHARD].cursor() as cursor:
        cursor.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = 'django_idempotency_record'::regclass")
        return cursor.fetchone()[0]


@pytest.fixture
def partitioned():
    """The table, in partitions. The first test makes them, and the module's databases end with it."""
    if not is_partitioned():
        partition()


def pay(request):
    return answer(request, {"id": Payment.objects.using(SHARD).create(amount=request.data["amount"]).pk})


@pytest.fixture
def serve(settings):
    def serve(handler=pay):
        settings.ROOT_URLCONF = (path(PATH.lstrip("/"), drf(handler, using=SHARD)), *urlpatterns)

    return serve


def test_requests_on_their_way_and_requests_that_arrive(user, api, serve, background, gate):
    """The change waits for the first; what arrives meanwhile waits for the change. All have their answers after it."""

    def handler(request):
        gate.wait()
        return pay(request)

    serve(handler)
    assert not is_partitioned()
    running = background(post, api)
    gate.reached()
    started = threading.Event()
    changing = background(lambda: (started.set(), partition()))
    assert started.wait(10)
    gate.open()

    first = running.result()
    changing.result()
    second = post(api)

    assert is_partitioned()
    assert first.status_code == 201
    assert is_replay(second)
    assert second.content == first.content
    assert Payment.objects.using(SHARD).count() == records().count() == 1


def test_the_law(api, serve, partitioned):
    """Executed once, replayed, refused for another body, forgotten with its rollback, new after it has expired."""
    serve()
    first, second, other = post(api), post(api), post(api, {"amount": 11})

    assert (first.status_code, is_replay(second), second.content) == (201, True, first.content)
    assert other.status_code == 422
    records().update(expires_at=DatabaseNow())
    third = post(api)
    assert (third.status_code, is_replay(third)) == (201, False)
    assert (Payment.objects.using(SHARD).count(), records().count()) == (2, 1)

    serve(lambda request: (pay(request), 1 / 0))
    assert post(api, key="key-2").status_code == 500
    assert (Payment.objects.using(SHARD).count(), records().count()) == (2, 1)


def test_a_duplicate_of_what_is_in_flight_is_refused_at_once(user, api, serve, partitioned, background, gate):
    """Fresh, and as the renewal of an expired record."""

    def handler(request):
        gate.wait()
        return pay(request)

    serve(handler)
    running = background(post, api)
    gate.reached()
    assert post(api).status_code == 409
    gate.open()
    assert running.result().status_code == 201


def test_a_claim_reads_one_partition(partitioned):
    """The look-up of a digest, whose hash says which one."""
    plan = records().filter(pk=b"\x01" * 32).explain()

    assert len(re.findall(r"Scan .*on django_idempotency_record_\d", plan)) == 1


def test_a_purge_deletes_what_has_expired_and_nothing_else(partitioned):
    """Rows of different partitions have the same places in them."""
    living = live(400, using=SHARD)
    expired(400, using=SHARD)
    places = "SELECT count(*) - count(DISTINCT ctid) FROM django_idempotency_record"
    with connections[SHARD].cursor() as cursor:
        cursor.execute(places)
        assert cursor.fetchone()[0] > 0

    purged = purge(SHARD, batch_size=50)

    assert (purged.count, purged.finished) == (400, True)
    assert set(records().values_list("pk", flat=True)) == {record.pk for record in living}


def test_a_purge_leaves_rows_that_a_claim_has_locked(partitioned, background, gate):
    """And none waits for another partition's row at the same place."""
    oldest = expired(200, using=SHARD)

    def hold():
        with transaction.atomic(SHARD):
            list(records().filter(pk__in=[record.pk for record in oldest[:40]]).select_for_update())
            gate.wait()

    holding = background(hold)
    gate.reached()

    assert purge(SHARD, batch_size=30).count == 160
    gate.open()
    holding.result()
    assert purge(SHARD).count == 40


def test_the_size_is_that_of_the_partitions(partitioned):
    """The planner's number of rows is theirs, too."""
    live(300, using=SHARD)
    with connections[SHARD].cursor() as cursor:
        cursor.execute("VACUUM ANALYZE django_idempotency_record")

    guess, size = table_size.estimate(SHARD)

    assert guess == 300
    assert size > 300 * 100
    assert table_size.measure(SHARD).records == 300


@pytest.mark.urls("tests.operations.admin_urls")
def test_the_admin(client, partitioned):
    """The list, a filter, a search by key and a record's page."""
    user = User.objects.create_user("operator", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="django_idempotency"))
    client.force_login(user)
    record, *_ = live(3, using=SHARD)
    changelist = reverse("admin:django_idempotency_idempotencyrecord_changelist")

    for query in ("", f"&q={record.key}", "&answer=2xx", "&o=1"):
        response = client.get(f"{changelist}?database={SHARD}{query}")
        assert response.status_code == 200
        assert record.key in response.content.decode()
    assert client.get(f"{changelist}{record}@{SHARD}/change/").status_code == 200


def test_checks_and_migrations(partitioned):
    """Nothing is found wrong, and a migration finds its table."""
    assert check_databases(databases=[SHARD]) == []
    editor = connections[SHARD].schema_editor
    field = IdempotencyRecord._meta.get_field("request_id").clone()
    field.max_length = 300
    with editor() as schema:
        field.set_attributes_from_name("request_id")
        schema.alter_field(IdempotencyRecord, IdempotencyRecord._meta.get_field("request_id"), field)
    with editor() as schema:
        schema.alter_field(IdempotencyRecord, field, IdempotencyRecord._meta.get_field("request_id"))
    assert is_partitioned()
