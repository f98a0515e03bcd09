"""`python -m tests.model`: search every protocol, print how far it was searched or how it goes wrong."""

import sys

from tests.model.report import HOLDS, REFUTED, row, story

sys.stdout.write("| protocol | states | moves |\n|---|---|---|\n")
for name in HOLDS:
    sys.stdout.write(row(name) + "\n")
for name in REFUTED:
    sys.stdout.write(f"\n{name}\n\n{story(name)}\n")
