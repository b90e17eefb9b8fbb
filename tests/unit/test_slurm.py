"""Our drain in Slurm, against an executable that behaves as scontrol: made, changed and lifted, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_scontrol import install_scontrol, set_slurm, slurm_node
from nodeagent.errors import DeadlineError, GoneError, HostError
from nodeagent.host.slurm import Scontrol


def slurm(root: Path, base: str = "IDLE") -> Scontrol:
    return Scontrol(str(install_scontrol(root, "gpu17", base)))


@pytest.mark.parametrize("base", ["IDLE", "MIXED", "DOWN*", "ALLOCATED"])
def test_our_drain_is_made_changed_and_lifted(tmp_path: Path, base: str) -> None:
    port = slurm(tmp_path, base)
    assert port.lift("gpu17") is False
    assert port.drain("gpu17", 'gpu GPU-1: xid; "quoted" $words [x@y]') is True
    assert slurm_node(tmp_path)[1].startswith("nodeagent: gpu GPU-1: xid")
    assert port.drain("gpu17", "gpu GPU-2: ecc") is True
    assert port.node("gpu17").reason == "nodeagent: gpu GPU-2: ecc"
    assert port.lift("gpu17") is True
    assert slurm_node(tmp_path) == (base, "")


@pytest.mark.parametrize("reason", ["NHC: disk", "maintenance", "not nodeagent: at all"])
def test_a_drain_of_somebody_else_stays(tmp_path: Path, reason: str) -> None:
    port = slurm(tmp_path)
    set_slurm(tmp_path, "gpu17", "IDLE", reason)
    assert port.drain("gpu17", "ours") is False
    assert port.lift("gpu17") is False
    assert slurm_node(tmp_path) == ("IDLE+DRAIN", reason)


def test_what_goes_wrong_says_what_to_do(tmp_path: Path) -> None:
    port = slurm(tmp_path)
    with pytest.raises(HostError, match="node gpu18 not found"):
        port.drain("gpu18", "x")
    with pytest.raises(GoneError, match="install slurm's client"):
        Scontrol(str(tmp_path / "nothing")).drain("gpu17", "x")
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(DeadlineError, match="slurmctld"):
        Scontrol(str(slow), deadline_seconds=0.3).lift("gpu17")
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexit 0\n")
    mute.chmod(0o755)
    with pytest.raises(HostError, match="no state"):
        Scontrol(str(mute)).lift("gpu17")
