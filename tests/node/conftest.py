"""A simulated node as the command meets it: fresh, prepared, and with a job on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import FILE, PROFILE, run_command
from cli_driver import Cli


@pytest.fixture
def fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A node that nothing has been done to, and does not exist before the first verb."""
    file = tmp_path / "node.yaml"
    file.write_text(FILE)
    return Cli(tmp_path / "n", file, capsys)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a node that is as its file says, to be copied."""
    directory = tmp_path_factory.mktemp("p")
    (directory / "node.yaml").write_text(FILE)
    place = ("--simulate", PROFILE, "--simulate-dir", str(directory / "n"), "--file", str(directory / "node.yaml"))
    done = run_command("apply", *place)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def cli(prepared: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The converged node; a test leaves it as it found it."""
    return Cli(prepared / "n", prepared / "node.yaml", capsys)


@pytest.fixture
def job(cli: Cli) -> Iterator[str]:
    """A process on GPU 1."""
    assert cli("simulate", "job", "start", "--gpu", "1", "--name", "train.py", "--memory", "2GiB") == 0
    pid = cli.out.strip()
    yield pid
    assert cli("simulate", "job", "end", pid) == 0
