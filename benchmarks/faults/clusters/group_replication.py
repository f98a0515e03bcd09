"""Faults of MySQL Group Replication, and its nodes."""

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.clusters.cluster import Cluster

CLUSTERS: dict[str, type[Cluster]] = {}
FAULTS: tuple[Fault, ...] = ()
