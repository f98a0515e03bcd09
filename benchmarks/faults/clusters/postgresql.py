"""Faults of a PostgreSQL primary with a streaming standby, and the two."""

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.clusters.cluster import Cluster

CLUSTERS: dict[str, type[Cluster]] = {}
FAULTS: tuple[Fault, ...] = ()
