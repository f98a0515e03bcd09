"""What a statement is for, as a test's output names it: the testing kit's names."""

import re

FOLDED_COMMIT = "record and COMMIT"  # in one message
FOLDED = re.compile(r"; COMMIT$|\bCALL django_idempotency_commit_v")


def label(sql: str) -> str:
    """The verb and the table of *sql*, without what changes from run to run."""
    from django_idempotency.testing.processes import points  # when Django is set up

    return points.label(sql)
