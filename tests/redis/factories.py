"""What a project writes that keeps its cache in a cluster: docs/reference/redis.md shows the same class."""

from django_redis.pool import ConnectionFactory
from redis.cluster import ClusterNode, RedisCluster


class ClusterConnectionFactory(ConnectionFactory):
    """One client of the cluster for each LOCATION and process. Its option NODES says where to look for the others."""

    _clusters = {}

    def connect(self, url):
        if url not in self._clusters:
            options = self.make_connection_params(url)
            del options["url"], options["parser_class"]
            nodes = [ClusterNode(host, port) for host, port in self.options["NODES"]]
            self._clusters[url] = RedisCluster(startup_nodes=nodes, **options, **self.redis_client_cls_kwargs)
        return self._clusters[url]

    def disconnect(self, connection):
        connection.disconnect_connection_pools()
