"""
The content of databases. Rule: compares what tables hold, and knows nothing of requests or processes.

Read `snapshots` (what tables hold, and what has changed), `shapes` (what each column is for), `equivalence` (two runs
compared), `variations` (columns that differ in every run) and `restoring` (a test's database put back).
"""
