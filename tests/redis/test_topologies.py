"""The servers of these tests: they end with the run, and the page shows the factory that the tests use."""

import inspect
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, blocks
from tests.lab.forks import ROOT
from tests.redis import factories
from tests.redis.servers import wait_until

RUN = """
from tests.redis.servers import keeper

with keeper() as keep:
    servers = [keep.redis(), keep.redis()]
    servers[1].stop()
    print(*(server.port for server in servers), flush=True)
    input()
"""


def test_a_run_that_is_killed_leaves_no_server_behind():
    """Neither one that serves nor one that is frozen."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with run:
        ports = [int(port) for port in run.stdout.readline().split()]
        os.kill(run.pid, signal.SIGKILL)

    assert len(ports) == 2
    for port in ports:
        wait_until("the server is gone", lambda port=port: is_away(port))


def is_away(port):
    """Does no server listen on *port*? A frozen one would let us connect."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_page_shows_the_factory_that_is_tested():
    """What a reader copies is what the cluster's tests run on."""
    page = DOCS / "reference" / "redis.md"
    shown = [block.text for block in blocks(page) if "class ClusterConnectionFactory" in block.text]
    assert len(shown) == 1
    for lines in (inspect.getsource(factories.ClusterConnectionFactory), "from redis.cluster import"):
        assert lines in shown[0]


@pytest.mark.parametrize(("option", "value"), [("appendonly", "yes"), ("maxmemory-policy", "allkeys-lru")])
def test_options_reach_the_server(own, option, value):
    """What the tests of persistence and eviction ask for is in force."""
    server = own.redis(**{option.replace("-", "_"): value})
    with server.asked() as client:
        assert client.config_get(option) == {option: value}
