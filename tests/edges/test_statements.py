"""What protection costs in statements, BEGIN, COMMIT, SAVEPOINT and RELEASE not counted."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.decorators import api_view

from django_idempotency import conf
from tests.app.models import Payment
from tests.app.serving import VENDOR, drf, is_replay, plain, post
from tests.app.views import answer, make_payment

pytestmark = pytest.mark.django_db(transaction=True)

# MariaDB's compound statements begin with BEGIN NOT ATOMIC, and are statements.
# PostgreSQL's may be folded: the one behind the semicolon is a statement.
OF_A_TRANSACTION = re.compile(
    r"(BEGIN|START TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|RELEASE SAVEPOINT)\b(?! NOT ATOMIC)[^;]*$"
)
FIRST = {"postgresql": 2, "mariadb": 2, "sqlite": 3}[VENDOR]


def known_payer(request):
    """A handler behind a log-in: whoever asks has been looked up before."""
    assert request.user.is_authenticated
    return make_payment(request)


def statements(work) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        work()
    return [query["sql"] for query in captured.captured_queries if not OF_A_TRANSACTION.match(query["sql"].strip())]


@pytest.fixture
def measured(edge, client, serve, atomic_requests):
    """The statements of a request to the view of this edge, protected or not, after a first one that warms it up."""

    def measured(*, protected: bool, warm: str, key: str | None, data=None) -> list[str]:
        view = {"drf": drf, "plain": plain}[edge](known_payer)
        if not protected:
            view = api_view(["POST"])(known_payer) if edge == "drf" else known_payer
        serve(view)
        post(client, key=warm)
        responses = []
        result = statements(lambda: responses.append(post(client, data, key=key)))
        measured.response = responses[0]
        return result

    return measured


def test_a_first_execution_costs_two_statements(measured):
    """Claim and record; on SQLite a look-up before them, so that a replay waits for no writer."""
    bare = measured(protected=False, warm="w1", key="k")
    protected = measured(protected=True, warm="w2", key="k")

    assert measured.response.status_code == 201
    assert len(protected) == len(bare) + FIRST


def test_a_replay_costs_one_statement(measured):
    """In place of everything that the handler would do."""
    bare = measured(protected=False, warm="w1", key="k")
    replay = measured(protected=True, warm="k", key="k")

    assert is_replay(measured.response)
    handler = 1  # INSERT
    assert len(replay) == len(bare) - handler + 1
    assert not any(statement.lstrip().startswith(("UPDATE", "DELETE")) for statement in replay)


def test_a_reused_key_costs_one_statement(measured):
    """As a replay does."""
    bare = measured(protected=False, warm="w1", key="k")
    reused = measured(protected=True, warm="k", key="k", data={"amount": 11})

    assert measured.response.status_code == 422
    assert len(reused) == len(bare) - 1 + 1


def test_a_request_without_a_key_costs_nothing(measured):
    """Protection is for those that ask for it."""
    bare = measured(protected=False, warm="w1", key=None)
    protected = measured(protected=True, warm="w2", key=None)

    assert measured.response.status_code == 201
    assert len(protected) == len(bare)


def test_a_malformed_key_costs_nothing(client, protect, serve):
    """It is refused before the store is asked, and before the user is looked up in a plain view."""
    serve(protect(known_payer))
    post(client)

    assert not [sql for sql in statements(lambda: post(client, key="a b")) if "idempotency" in sql]


def test_a_refusal_of_the_handler_costs_the_claim(protect, client, serve, atomic_requests):
    """What is rolled back writes no record. mysqlclient tells of no open transaction, so the row is asked for."""
    serve(protect(lambda request: answer(request, {"user": request.user.pk}, 400)))
    post(client)
    without_key = statements(lambda: post(client, key=None))

    asked = VENDOR == "mariadb" and not hasattr(connection.connection, "server_status")
    assert len(statements(lambda: post(client))) == len(without_key) + FIRST - 1 + asked
    assert not Payment.objects.exists()


def test_no_work_is_done_per_request_that_start_up_can_do(client, protect, serve, monkeypatch):
    """No policy is resolved and no regular expression compiled for the second request."""
    serve(protect(make_payment, key_format=r"key-\d"))
    post(client)

    def fail(*args, **kwargs):
        raise AssertionError("parsed again")

    monkeypatch.setattr(conf, "resolve", fail)
    monkeypatch.setattr(conf, "check_options", fail)
    monkeypatch.setattr("re.compile", fail)

    assert is_replay(post(client))
    assert post(client, key="key-2").status_code == 201
