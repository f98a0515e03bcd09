"""A primary with a replica that three sentinels watch over, and a cluster of six nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import redis
from redis.cluster import key_slot

from tests.redis.servers import Keeper, Server, wait_until
from tests.servers import free_port

NAME = "payments"  # of the pair, as its sentinels and Django's setting know it
QUORUM = 2
DOWN_AFTER = 600  # milliseconds without an answer after which a sentinel takes a server for dead
FAILOVER_TIMEOUT = 1500  # milliseconds for a step of a failover; the next one begins after twice that
# Sentinels greet and ask each other about once a second: milliseconds instead. A replica that has not answered within
# five times the period of pings is not promoted.
HURRY = {"info-period": "50", "ask-period": "50", "publish-period": "50", "ping-period": "200"}

SLOTS = 16384
PRIMARIES = 3


class SentinelPair:
    """*primary* and *replica* are what they were at the start; a failover turns them round."""

    def __init__(self, keep: Keeper, **options: str) -> None:
        self.primary = keep.redis(**options)
        self.replica = keep.redis(replicaof=f"127.0.0.1 {self.primary.port}", **options)
        self.is_in_step()
        self.sentinels = [self._sentinel(keep) for _ in range(3)]
        for sentinel in self.sentinels:
            with sentinel.asked() as client:
                wait_until("sentinels know each other and the replica", lambda client=client: self._is_watched(client))

    def _sentinel(self, keep: Keeper) -> Server:
        sentinel = Server(
            keep,
            "--sentinel",
            **{
                f"sentinel monitor {NAME}": f"127.0.0.1 {self.primary.port} {QUORUM}",
                f"sentinel down-after-milliseconds {NAME}": str(DOWN_AFTER),
                f"sentinel failover-timeout {NAME}": str(FAILOVER_TIMEOUT),
            },
        )
        with sentinel.asked() as client:
            client.execute_command("SENTINEL DEBUG", *(word for pair in HURRY.items() for word in pair))
        return sentinel

    def _is_watched(self, client: redis.Redis) -> bool:
        watched = client.sentinel_master(NAME)
        return watched["num-other-sentinels"] == 2 and watched["num-slaves"] == 1

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def is_in_step(self) -> None:
        """Wait until the replica has all that the primary has."""
        with self.primary.asked() as primary, self.replica.asked() as replica:

            def offsets() -> bool:
                info = replica.info("replication")
                is_up = info.get("master_link_status") == "up"
                return is_up and info["slave_repl_offset"] == primary.info("replication")["master_repl_offset"]

            wait_until("the replica is in step", offsets)

    def has_failed_over(self) -> None:
        """Wait until the replica is the primary, and every sentinel says so."""
        with self.replica.asked() as client:
            wait_until("the replica is promoted", lambda: client.role()[0] == b"master")
        for sentinel in self.sentinels:
            with sentinel.asked() as client:
                wait_until(
                    "the sentinels name the new primary",
                    lambda client=client: client.sentinel_get_master_addr_by_name(NAME)[1] == self.replica.port,
                )


class Cluster:
    """Three primaries that share the slots, and a replica of each."""

    def __init__(self, keep: Keeper, *, replicas: bool = True, **options: str) -> None:
        count = PRIMARIES * 2 if replicas else PRIMARIES
        # A bus of its own: the usual one, ten thousand ports further, may be taken.
        buses = [str(free_port()) for _ in range(count)]
        options |= {"cluster_enabled": "yes", "cluster_node_timeout": "1000"}
        self.nodes = [keep.redis(cluster_port=bus, **options) for bus in buses]
        self.primaries, self.replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        with ExitStack() as stack:
            clients = [stack.enter_context(node.asked()) for node in self.nodes]
            for index, client in enumerate(clients):
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port, buses[0])
            edges = [SLOTS * index // PRIMARIES for index in range(PRIMARIES + 1)]
            for client, first, end in zip(clients, edges, edges[1:], strict=False):
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            for client in clients:
                wait_until("the nodes know each other", lambda client=client: self._knows(client, count))
            ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
            for client, primary in zip(clients[PRIMARIES:], ids, strict=False):
                client.execute_command("CLUSTER REPLICATE", primary)
            for client in clients[PRIMARIES:]:
                wait_until("a replica is up", lambda client=client: client.role()[3] == b"connected")

    def _knows(self, client: redis.Redis, count: int) -> bool:
        info = client.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(count)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", node.port) for node in self.nodes]

    def owner(self, key: bytes) -> Server:
        """The primary that serves *key*."""
        slot = key_slot(key)
        for node in self.primaries:
            with node.asked() as client:
                if client.execute_command("CLUSTER COUNTKEYSINSLOT", slot) and client.exists(key):
                    return node
        raise AssertionError(f"no primary has {key!r}")

    @contextmanager
    def moving(self, key: bytes, *, half: bool = False) -> Iterator[None]:
        """
        Move the slot of *key* to another primary: inside the block its keys are there already (*half*: only this one),
        and the slot is not, so that the old owner answers ASK; from the end on it answers MOVED.
        """
        slot = key_slot(key)
        source = self.owner(key)
        target = next(node for node in self.primaries if node is not source)
        with source.asked() as old, target.asked() as new:
            ids = [client.execute_command("CLUSTER MYID").decode() for client in (old, new)]

            def migrate(*keys: bytes) -> None:
                old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
            keys = set(old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000))
            migrate(*({key} if half else keys))
            yield
            if half:
                migrate(*(keys - {key}))
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])

    def fail_over(self, key: bytes) -> None:
        """Kill the primary of *key* when its replica has all that it has, and wait until that has its place."""
        primary = self.owner(key)
        replica = self.replicas[self.primaries.index(primary)]
        with primary.asked() as client:
            assert client.execute_command("WAIT", 1, 5000) == 1
        primary.kill()
        with replica.asked() as client:
            wait_until("the replica is promoted", lambda: client.role()[0] == b"master")
        for node in self.nodes:
            if node.pid:
                with node.asked() as client:
                    wait_until("the cluster serves again", lambda client=client: self._serves(client))

    def _serves(self, client: redis.Redis) -> bool:
        return client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
