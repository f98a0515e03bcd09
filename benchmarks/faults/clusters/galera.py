"""Faults of MariaDB Galera, and its nodes."""

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.clusters.cluster import Cluster

CLUSTERS: dict[str, type[Cluster]] = {}
FAULTS: tuple[Fault, ...] = ()
