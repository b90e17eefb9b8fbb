"""The real nvidia-smi on the simulator's library says what the agent says, with MIG, a job and errors on the node.

It asks for processes by private functions that no header describes, so `smi_contract.computing` needs a real GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import nvidia_smi
from agent_process import run_command
from smi_contract import CLAUSES, Pair, layouts

PROFILE = "dgx-a100"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A converged node with two divided GPUs, a job on another, and memory errors on one more."""
    target = ("--simulate", PROFILE, "--simulate-dir", str(tmp_path_factory.mktemp("smi") / "node"))
    for words in (
        ("apply",),
        ("simulate", "job", "start", "--gpu", "3", "--name", "train.py", "--memory", "20GiB"),
        ("simulate", "fault", "ecc", "--gpu", "4"),
    ):
        done = run_command(*words, *target)
        assert done.returncode == 0, done.stdout + done.stderr
    yield Pair(nvidia_smi.obtain(), nvidia_smi.environment_of(Path(target[-1]), PROFILE), target)
    run_command("simulate", "heal", *target)


@pytest.mark.parametrize("clause", CLAUSES)
def test_nvidia_smi_and_the_agent_agree(pair: Pair, clause: str) -> None:
    CLAUSES[clause](pair)


def test_they_agree_on_every_layout_on_the_way(pair: Pair, tmp_path: Path) -> None:
    seen: list[int] = []
    layouts(pair, tmp_path / "layout.json", lambda: seen.append(pair.told("-L").count("  MIG ")))
    assert seen[0] == seen[2] > seen[1]


def test_the_node_has_what_they_could_disagree_about(pair: Pair) -> None:
    assert pair.told("-L").count("MIG 1g.5gb") == 4
    assert any(value > 10_000 for (family, _), value in pair.series().items() if family == "DCGM_FI_DEV_FB_USED")
    assert any(value for (family, _), value in pair.series().items() if family == "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL")
