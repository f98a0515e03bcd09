"""Faults of MariaDB Galera, and its nodes, each of which takes writes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.clusters.cluster import Cluster
from benchmarks.faults.keeper import MariaDB, Server
from tests import servers

PROVIDERS = [Path("/usr/lib") / place / "libgalera_smm.so" for place in ("galera", "galera-4", "x86_64-linux-gnu")]
SUSPECT = 2  # seconds after which the others give up a node that is silent; Galera's own choice is 5
# Of these, the first has to be less than a third of the third: otherwise no node starts.
TIMES = {
    "evs.keepalive_period": "PT0.3S", "evs.inactive_check_period": "PT0.3S", "evs.suspect_timeout": f"PT{SUSPECT}S",
    "evs.inactive_timeout": f"PT{2 * SUSPECT}S", "evs.install_timeout": f"PT{2 * SUSPECT}S",
}  # fmt: skip


class Node(MariaDB):
    """A server with all data. The first of *others*, the nodes before it, has made the cluster."""

    def __init__(self, folder: Path, others: list[Server]) -> None:
        self.meeting = f"127.0.0.1:{servers.free_port()}"
        self.others = [other.meeting for other in others if isinstance(other, Node)]
        self.is_founded = bool(others)
        super().__init__(folder)

    def initialize(self) -> None:
        self.provider = next((path for path in PROVIDERS if path.exists()), None)
        if self.provider is None:
            raise servers.Missing("no libgalera_smm.so is installed: it is in Debian's package galera-4")
        super().initialize()

    def command(self) -> list[str | Path]:
        network = {
            "gmcast.listen_addr": f"tcp://{self.meeting}", "ist.recv_addr": f"127.0.0.1:{servers.free_port()}",
            "gcache.size": "32M", **TIMES,
        }  # fmt: skip
        settings = {
            "wsrep-on": "ON", "wsrep-provider": self.provider, "wsrep-node-address": self.meeting,
            "wsrep-cluster-address": f"gcomm://{','.join(self.others) if self.is_founded else ''}",
            "wsrep-sst-method": "rsync", "wsrep-sst-receive-address": f"127.0.0.1:{servers.free_port()}",
            "wsrep-provider-options": ";".join(f"{name}={value}" for name, value in network.items()),
            "wsrep-slave-threads": 2, "binlog-format": "ROW", "innodb-autoinc-lock-mode": 2,
        }  # fmt: skip
        return [*super().command(), *(f"--{name}={value}" for name, value in settings.items())]

    def version(self) -> str:
        """Raises, too, while the node has not joined, or the nodes that it sees are not the majority."""
        with servers.mariadb_cursor(self.url) as cursor:
            cursor.execute("SHOW STATUS LIKE 'wsrep_ready'")
            if cursor.fetchone()[1] != "ON":
                raise RuntimeError("the node is not in the cluster")
        return f"{super().version()} with Galera"

    def start(self) -> None:
        super().start()
        self.is_founded = True

    def isolate(self, isolated: int) -> None:
        with servers.mariadb_cursor(self.url) as cursor:
            cursor.execute(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={isolated}'")


class Galera(Cluster):
    """Three nodes. More words: `cut` takes nodes off the others' network, `join` brings them back, and waits for it."""

    title = "MariaDB Galera"
    note = f"""three nodes that all take writes, with `evs.suspect_timeout` at {SUSPECT} seconds. A node that was killed
        loses its data and gets them anew from another (`rsync`)."""

    def make(self, number: int, folder: Path) -> Server:
        return Node(folder, self.nodes)

    def start(self, *numbers: int) -> None:
        first, *others = self.chosen(numbers)
        first.start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.start(), others))
        for node in self.nodes:
            assert isinstance(node, Node)
            node.others = [other.meeting for other in self.nodes if isinstance(other, Node)]

    def cut(self, *numbers: int) -> None:
        self._isolate(1, *numbers)

    def join(self, *numbers: int) -> None:
        self._isolate(0, *numbers)
        for node in self.chosen(numbers):
            assert node.process is not None
            servers.wait_for(node.version, node.process, node.folder / "log")

    def _isolate(self, isolated: int, *numbers: int) -> None:
        for node in self.chosen(numbers):
            assert isinstance(node, Node)
            node.isolate(isolated)


CLUSTERS: dict[str, type[Cluster]] = {"galera": Galera}
FAULTS: tuple[Fault, ...] = ()
