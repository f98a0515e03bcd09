"""
Try what `python -m build` made: `python -m tests.packaging FOLDER [requirements]`.

Wheel and sdist are looked through, then each is installed into an empty environment, with the *requirements* beside it,
where `smoke.py` runs away from this folder.
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
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
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
    look_through_wheel(wheel)
    look_through_sdist(sdist)
    for artifact in (wheel, sdist):
        print(f"{artifact.name}:", flush=True)
        try_out(artifact, requirements)


def look_through_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    report(wheel, "missing", IN_WHEEL - names)
    report(wheel, "of no use there", {name for name in names if name.split("/")[0] not in top_levels(wheel)})
    report(wheel, "generated", {name for name in names if any(part in name for part in GENERATED)})


def top_levels(wheel: Path) -> set[str]:
    name, version, *_ = wheel.name.split("-")
    return {PACKAGE, f"{name}-{version}.dist-info"}


def look_through_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    report(sdist, "missing", IN_SDIST - names)
    report(sdist, "generated", {name for name in names if any(part in name for part in GENERATED)})


def report(artifact: Path, what: str, names: set[str]) -> None:
    if names:
        raise SystemExit(f"{artifact.name}: {what}: {', '.join(sorted(names))}")


def try_out(artifact: Path, requirements: list[str]) -> None:
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
