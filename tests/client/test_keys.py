"""Keys: new ones, and a jar that is asked by several processes, some of which are killed."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from django_idempotency.client import KeyJar, new_key
from django_idempotency.core.keys import is_uuid, time_of
from django_idempotency.exceptions import KeyExpired, PolicyError

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600.0  # seconds


def asking(jar, *names):
    """A process that prints names and their keys."""
    command = [sys.executable, "-m", "tests.client.asking", str(jar), *names]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_new_key_is_a_uuid_that_tells_its_age():
    """Version 7, so that a server with `key_max_age` can refuse it when it is too old."""
    keys = {new_key() for _ in range(1000)}

    assert len(keys) == 1000
    assert all(is_uuid(key) for key in keys)
    assert abs(time_of(keys.pop()) - time.time()) < 60


def test_a_name_keeps_its_key(tmp_path):
    """In this process, and in the next."""
    jar = KeyJar(tmp_path / "keys")
    key = jar.key("pay invoice 17")

    assert jar.key("pay invoice 17") == key
    assert KeyJar(tmp_path / "keys").key("pay invoice 17") == key
    assert jar.key("pay invoice 18") != key


def test_an_action_has_finished_when_its_block_ends(tmp_path):
    """It keeps its key for late repetitions. An exception leaves it unfinished."""
    jar = KeyJar(tmp_path / "keys")
    with pytest.raises(ZeroDivisionError), jar.action("first") as first:
        assert 1 / 0
    with jar.action("second") as second:
        assert jar.unfinished() == ["first", "second"]

    assert jar.unfinished() == ["first"]
    assert (jar.key("first"), jar.key("second")) == (first, second)


def test_a_finished_action_is_forgotten_in_time(tmp_path):
    """The server forgets it, too, so the name may stand for a new action."""
    now = [0.0]
    jar = KeyJar(tmp_path / "keys", now=lambda: now[0])
    with jar.action("report") as key:
        pass
    now[0] = 23 * HOUR
    assert jar.key("report") == key
    now[0] += 1

    assert jar.key("report") != key
    assert jar.unfinished() == ["report"]


def test_an_unfinished_action_is_not_begun_anew(tmp_path):
    """The server may have forgotten that it did it. Somebody has to look, and to say that it is done with."""
    now = [0.0]
    jar = KeyJar(tmp_path / "keys", max_age=timedelta(hours=1), now=lambda: now[0])
    key = jar.key("pay")
    now[0] = HOUR + 1

    with pytest.raises(KeyExpired, match=r"'pay' began 1:00:01 ago and has not finished.*finish\(\)"):
        jar.key("pay")
    jar.finish("pay")
    assert jar.key("pay") != key


@pytest.mark.race
def test_processes_share_a_jar(tmp_path):
    """Each name gets one key, whoever is first."""
    names = [str(number) for number in range(50)]
    processes = [asking(tmp_path / "keys", *names) for _ in range(4)]
    printed = [process.communicate(timeout=60)[0] for process in processes]

    assert len(set(printed)) == 1
    assert len(set(printed[0].split()[1::2])) == len(names)


@pytest.mark.kill
def test_a_key_that_somebody_has_is_in_the_jar(tmp_path):
    """A process that is killed has used no key that its successor does not get."""
    path = tmp_path / "keys"
    for count in (1, 20, 50):
        with asking(path) as process:
            lines = [process.stdout.readline() for _ in range(count)]
            process.kill()
            lines += [line for line in process.stdout if line.endswith("\n")]
        jar = KeyJar(path)
        for line in lines:
            name, key = line.split()
            assert jar.key(name) == key


@pytest.mark.parametrize("path", ["missing/keys", "page.html"])
def test_a_jar_that_cannot_be_opened_says_so(tmp_path, path):
    """At the start of the program."""
    (tmp_path / "page.html").write_text("<html>" * 1000)
    with pytest.raises(PolicyError, match=f"{path} cannot be opened"):
        KeyJar(tmp_path / path)


def test_a_jar_is_a_file_whatever_its_name(tmp_path, monkeypatch):
    """For SQLite this name is a memory that is gone with the connection."""
    monkeypatch.chdir(tmp_path)

    assert KeyJar(":memory:").key("pay") == KeyJar(":memory:").key("pay")
