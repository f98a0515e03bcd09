"""What a statement is for, as a test's output names it."""

import re

FOLDED_COMMIT = "record and COMMIT"  # in one message
FOLDED = re.compile(r"; COMMIT$|\bCALL django_idempotency_commit_v")

NAMES = {
    "claim": re.compile("INSERT|_claim_v|_begin_v"),
    "record": re.compile("SET status = %s|_complete_v"),
    "renew": re.compile("status = 0,"),
}


def label(sql: str) -> str:
    """The verb and the table of *sql*, without what changes from run to run."""
    text = " ".join(sql.split())
    if FOLDED.search(text):
        return FOLDED_COMMIT
    if "idempotency" in text and not text.startswith(("SAVEPOINT", "RELEASE")):
        for name, sign in NAMES.items():
            if sign.search(text):
                return name
        return "lock" if "NOWAIT" in text else "look-up"
    verb, *rest = text.split(" ")
    if verb in ("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT"):
        return "ROLLBACK TO" if verb == "ROLLBACK" else verb
    table = re.search(r"(?:FROM|INTO|UPDATE|TABLE) [`\"]?(\w+)", text)
    return f"{verb} {table[1] if table else ' '.join(rest)[:20]}"
