"""The single-instance lock, held by real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.errors import AlreadyRunningError, DeniedError
from nodeagent.host.lock import node_lock
from nodeagent.host.paths import LOCK

HOLDER = """
import sys
from nodeagent.host.lock import node_lock
with node_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(root: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLDER, str(root)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_instance_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with (
            pytest.raises(AlreadyRunningError, match=rf"held by process {process.pid};") as caught,
            node_lock(str(tmp_path)),
        ):
            raise AssertionError("two hold it")
        assert caught.value.exit_code == 75
        process.communicate()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.communicate()
    with node_lock(str(tmp_path)):
        assert (tmp_path / LOCK.lstrip("/")).read_text() == f"{os.getpid()}\n"


def test_it_can_be_taken_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        with node_lock(str(tmp_path)):
            pass


def test_two_nodes_have_two_locks(tmp_path: Path) -> None:
    with node_lock(str(tmp_path / "a")), node_lock(str(tmp_path / "b")):
        assert (tmp_path / "a" / LOCK.lstrip("/")).exists()


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    with node_lock(str(tmp_path)):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child, node_lock(str(tmp_path)):
        child.communicate()


def test_a_place_that_cannot_be_written_says_what_would_help(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(DeniedError, match=r"lock .*: .*; run as root, or with --simulate"), node_lock(str(tmp_path)):
        raise AssertionError("held without a file")
