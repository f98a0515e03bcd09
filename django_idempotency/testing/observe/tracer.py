"""Finds the line of the project's code that does something, from the frames of the call."""

import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

TEST_CLIENT = "django.test.client"  # where a request begins
# Functions that call on_commit hooks: Django's (`on_commit` itself if no transaction is open), and the kit's.
HOOK_RUNNERS = frozenset({"on_commit", "run_and_clear_commit_hooks", "run_test_hooks"})


@dataclass(frozen=True, slots=True)
class Origin:
    """The nearest *line* of the project's code, or an empty string. *in_hook*: does an on_commit hook call it?"""

    line: str = ""
    in_hook: bool = False


def find_origin() -> Origin:
    """The origin of this call, within the request if there is one."""
    line, in_hook = "", False
    for frame in frames():
        code = frame.f_code
        if frame.f_globals.get("__name__") == TEST_CLIENT:
            break
        if not line and not code.co_filename.startswith(("<", *_library_paths())):
            line = f"{os.path.relpath(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
        if code.co_name in HOOK_RUNNERS:
            in_hook = True
            if code.co_name == "run_test_hooks":
                break
    return Origin(line, in_hook)


def frames() -> Iterator[FrameType]:
    """The frames of the caller and of its callers, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


@lru_cache(maxsize=1)
def _library_paths() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} | {*site.getsitepackages()}
    return (*sorted(path + os.sep for path in paths if path), str(Path(__file__).parents[2]) + os.sep)
