"""
A process that asks a jar: `python -m tests.client.asking JAR [NAME...]`. Prints a line with the key of each name.

Without names it asks for new ones until it is killed.
"""

import itertools
import sys

from django_idempotency.client import KeyJar


def main(path: str, *names: str) -> None:
    jar = KeyJar(path)
    for name in names or map(str, itertools.count()):
        sys.stdout.write(f"{name} {jar.key(name)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
