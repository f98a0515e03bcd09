"""
Test what `python -m build` made: `python -m tests.packaging FOLDER [requirements]`.

The contents of wheel and sdist are checked. Then each is installed into an empty environment, together with the
*requirements*, and `smoke.py` runs there, in a folder of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

SMOKE = Path(__file__).with_name("smoke.py")
PACKAGE = "django_idempotency"

IN_WHEEL = {
    f"{PACKAGE}/__init__.py",
    f"{PACKAGE}/migrations/0001_initial.py",
    f"{PACKAGE}/py.typed",
}
IN_SDIST = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
    "SECURITY.md",
    f"{PACKAGE}/py.typed",
    "docs/conf.py",
    "manage.py",
    "pyproject.toml",
    "sample_project/settings.py",
    "setup.cfg",
    "tests/packaging/smoke.py",
}
GENERATED = ("__pycache__", ".pyc", ".sqlite3", "_build")


def main(folder: Path, requirements: list[str]) -> None:
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    for artifact in (wheel, sdist):
        print(f"{artifact.name}:", flush=True)
        run_smoke_test(artifact, requirements)


def check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    report(wheel, "missing", IN_WHEEL - names)
    report(wheel, "not expected there", {name for name in names if name.split("/")[0] not in top_levels(wheel)})
    report(wheel, "generated", {name for name in names if any(part in name for part in GENERATED)})


def top_levels(wheel: Path) -> set[str]:
    name, version, *_ = wheel.name.split("-")
    return {PACKAGE, f"{name}-{version}.dist-info"}


def check_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    report(sdist, "missing", IN_SDIST - names)
    report(sdist, "generated", {name for name in names if any(part in name for part in GENERATED)})


def report(artifact: Path, what: str, names: set[str]) -> None:
    if names:
        raise SystemExit(f"{artifact.name}: {what}: {', '.join(sorted(names))}")


def run_smoke_test(artifact: Path, requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="idempotency-") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, artifact.resolve(), *requirements], check=True)
        shutil.copy(SMOKE, folder)
        subprocess.run([python, "-W", "error", "smoke.py"], check=True, cwd=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
