"""Claims, replays, searches, purges and the admin's list on small and on large tables: `python -m benchmarks.scale`."""
