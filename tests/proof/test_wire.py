"""What is lost between a request's process and its database server: every message, and every reply."""

from collections.abc import Iterator

import pytest
from django.db import connection

from tests.lab.proxy import Proxy, proxy_to
from tests.lab.routines import BY_STATEMENTS
from tests.lab.statements import FOLDED_COMMIT
from tests.proof.lab import PATHS, Killing, Path, Request, amounts, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill]

PORTS = {"postgresql": 5432, "mysql": 3306}
LOSSES = ("request", "reply")
SUCCESS = next(path for path in PATHS if path.name == "success")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no wire: a process killed after COMMIT is in test_kills.py")
    settings = connection.settings_dict
    with proxy_to(settings["HOST"], int(settings["PORT"] or PORTS[connection.vendor])) as proxy:
        yield proxy


def through(proxy: Proxy, **settings: object) -> dict[str, object]:
    options: dict[str, object] = {}
    if connection.vendor == "mysql":  # PyMySQL encrypts where MySQL offers it, and the proxy reads what is sent
        options = {"ssl_disabled": True} if connection.Database.__name__ == "pymysql" else {"ssl_mode": "DISABLED"}
    return {"database": {"HOST": "127.0.0.1", "PORT": str(proxy.port), **settings}, "options": options}


def commit_in(sent: list[str]) -> int:
    return sent.index(FOLDED_COMMIT if FOLDED_COMMIT in sent else "COMMIT")


def messages(lab, proxy: Proxy, request: Request, config: dict[str, object]) -> list[str]:
    """What a request that is left alone sends."""
    child = lab.child(**config).connect()
    proxy.lose(-1, "", cut=True)
    assert child.ask(request).status == 201
    child.close()
    return list(proxy.seen)


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path.name in ("success", "expired-record")], ids=lambda path: path.name
)
def test_a_client_killed_between_the_server_and_its_reply(
    lab, token, count, proxy, vendor, atomic_requests, path: Path
):
    """Killed before a message reaches the server, or before the reply comes back, a request takes effect once."""
    config = through(proxy, ATOMIC_REQUESTS=atomic_requests)
    killing = Killing(lab, token, path, f"wire-{path.name}", database={"ATOMIC_REQUESTS": atomic_requests})
    sent = messages(lab, proxy, killing.request("dry"), config)
    commit = commit_in(sent)
    violations = []
    for number, name in enumerate(sent):
        for what in LOSSES:
            request = killing.request(f"{number}-{what}")
            child = lab.child(**config).connect()
            loss = proxy.lose(number, what, cut=False)
            child.send(request)
            assert loss.happened.wait(30)
            child.kill()
            committed = number > commit or (number == commit and what == "reply")
            found = killing.check(request, committed)
            violations += [f"killed without the {what} of {number} {name}: {each}" for each in found]
    count(
        f"{vendor}, {'with' if atomic_requests else 'without'} ATOMIC_REQUESTS, on the wire",
        points=len(sent) * len(LOSSES), kills=killing.kills, violations=len(violations),
    )  # fmt: skip

    assert violations == []
    # The user, BEGIN, claim, work, record, COMMIT; MariaDB's BEGIN is a SET AUTOCOMMIT, and another one ends it.
    whole = {"postgresql": 6, "mariadb": 7, "mysql": 7}[vendor] + 2 * atomic_requests
    if vendor == "mysql" and BY_STATEMENTS:  # a look-up, SAVEPOINT and RELEASE, and the lock of an expired record
        whole += 4 if path.name == "expired-record" else 3
    folded = {"postgresql": 4, "mariadb": 5, "mysql": 5}[vendor]  # InnoDB's COMMIT is sent, and finds nothing
    assert len(sent) == (folded if FOLDED_COMMIT in sent else whole)
    if vendor in ("mariadb", "mysql"):
        assert (FOLDED_COMMIT in sent) is not (BY_STATEMENTS or atomic_requests)


def test_a_connection_cut_at_any_message(lab, token, count, proxy, vendor, atomic_requests):
    """
    A connection lost before the handler runs is a 503 that did nothing; lost later, a 500 of unknown outcome.

    The reply to COMMIT lost: the work is durable, and the retry replays it. The COMMIT itself lost: the retry executes.
    """
    config = through(proxy, ATOMIC_REQUESTS=atomic_requests)
    killing = Killing(lab, "", SUCCESS, "cut", database={"ATOMIC_REQUESTS": atomic_requests})

    def request(name: str) -> Request:
        return Request(key=f"cut-{name}", token="", path="/plain/")

    sent = messages(lab, proxy, request("dry"), config)
    commit, work = commit_in(sent), next(number for number, name in enumerate(sent) if name.startswith("INSERT app"))
    violations = []
    for number, name in enumerate(sent):
        for what in LOSSES:
            this = request(f"{number}-{what}")
            child = lab.child(**config).connect()
            proxy.lose(number, what, cut=True)
            reply = child.ask(this)
            committed = number > commit or (number == commit and what == "reply")
            if atomic_requests and vendor != "postgresql" and number == 0:
                expected = {500}  # Django's own transaction could not begin, so the view was not called
            elif number < work:
                expected = {503}
            elif number > commit:
                expected = {500, 201}
            else:
                expected = {500}
            if reply.status not in expected or (reply.status == 503 and "retry-after" not in reply.headers):
                violations.append(f"{what} of {number} {name} lost: answered {reply}")
            found = killing.check(this, committed)
            violations += [f"{what} of {number} {name} lost: {each}" for each in found]
            child.close()
    count(f"{vendor}, {'with' if atomic_requests else 'without'} ATOMIC_REQUESTS, cut", points=len(sent) * len(LOSSES))

    assert violations == []


def test_a_replay_whose_connection_is_cut_did_nothing(lab, token, proxy):
    """A lost connection can make a 503 of a replay; the record and the effect stay what they are."""
    request = Request(key="replay", token="", path="/plain/")
    messages(lab, proxy, request, through(proxy))
    replay = messages(lab, proxy, request, through(proxy))
    for number, _ in enumerate(replay[:2]):
        for what in LOSSES:
            child = lab.child(**through(proxy)).connect()
            proxy.lose(number, what, cut=True)
            assert child.ask(request).status == 503
            again = child.ask(request)
            assert again.replayed or again.status == 503

    assert lab.child().ask(request).replayed
    assert amounts(request.key) == [10]
    assert statuses(request.key) == [201]
