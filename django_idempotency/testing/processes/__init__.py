"""
Calls in other processes. Rule: a call runs in a fork, and only the parent compares and reports.

Read `forks` (a process that can be killed), `points` (where it can be halted), `trials` (one call repeated from one
state), then `races`, `crashes` and `verdicts` (what is reported of kills).
"""
