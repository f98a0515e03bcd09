"""What a run has changed is taken back, whatever a column holds."""

import pytest
from django.db import connection

from django_idempotency.testing.compare.restoring import restore
from django_idempotency.testing.compare.snapshots import snapshot

pytestmark = pytest.mark.django_db(transaction=True)


NUMBER = "integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY"  # which has to be asked before it takes another


@pytest.fixture
def documents(transactional_db):
    """A table that no model has."""
    if connection.vendor != "postgresql":
        pytest.skip("Other databases give JSON as a text.")
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS kit_document")
        cursor.execute(f"CREATE TABLE kit_document (id {NUMBER}, plain json, binary_ jsonb, numbers int[])")
        yield cursor
        cursor.execute("DROP TABLE kit_document")


@pytest.mark.parametrize("document", ['{"a": [1, "b"]}', '[1, {"a": 2}]', '"text"', "1", "true"])
@pytest.mark.parametrize(
    "work", ["DELETE FROM kit_document", "UPDATE kit_document SET plain = '{}', binary_ = '{}', numbers = '{3}'"]
)
def test_json_is_put_back(documents, document, work):
    """Of either type, and whatever it is at its top; an array is none."""
    documents.execute(
        "INSERT INTO kit_document (plain, binary_, numbers) VALUES (%s, %s, '{1,2}')", [document, document]
    )
    before = snapshot()
    documents.execute(work)

    restore(before.changes(snapshot()))

    assert not before.changes(snapshot())
    documents.execute("SELECT plain::text, numbers FROM kit_document")
    assert documents.fetchall() == [(document, [1, 2])]
