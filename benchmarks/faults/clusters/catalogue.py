"""All clusters, by the names of their kinds, and all faults on them: a fault's `kinds` are clusters."""

from benchmarks.faults.clusters import galera, group_replication, postgresql

CLUSTERS = {**postgresql.CLUSTERS, **galera.CLUSTERS, **group_replication.CLUSTERS}
CLUSTER_FAULTS = (*postgresql.FAULTS, *galera.FAULTS, *group_replication.FAULTS)
