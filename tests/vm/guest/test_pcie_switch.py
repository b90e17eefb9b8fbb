"""PCIe switches, a GPU and NICs whose registers keep what is written (stub_pcie): seen, set and proved on the kernel.

What is there: root port - switch - {GPU, NEAR, switch - FAR}, root port of a kind that gets relaxed ordering wrong -
STUBBORN, which has no MaxReadReq to write, and OTHER on another CPU. The domains are beyond those of firmware, as
Intel's VMD makes them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nodeagent.cli import main
from nodeagent.errors import GoneError, UnsupportedError
from nodeagent.host.files import LocalFiles
from nodeagent.host.pcie_control import write_setting
from nodeagent.state.topology import PcieSetting
from sim_node import Told, text_of
from vm.guest.card import load, run

if TYPE_CHECKING:
    from nodeagent.host.kmod import LibKmod
    from nodeagent.plan.convergence import Outcome

GPU, NEAR, FAR, STUBBORN, OTHER = (
    "10000:03:00.0",
    "10000:04:00.0",
    "10000:07:00.0",
    "10000:08:00.0",
    "10001:01:00.0",
)
# Downstream ports between the GPU and the two NICs that do not send traffic to the CPU to reach it.
PORTS = ("10000:02:00.0", "10000:02:01.0", "10000:02:02.0", "10000:06:00.0")
WISH = "pcie: {max_read_request: 4096, relaxed_ordering: true, acs_redirect: false}"
MODULE = Path("/sys/module/stub_pcie/parameters")
FUNCTIONS = Path("/sys/bus/pci/devices")


@pytest.fixture(autouse=True)
def switch(kmod: LibKmod) -> None:
    load(kmod, "stub_pcie")


def _apply(tmp_path: Path, text: str, told: Told | None = None) -> Outcome:
    return run(tmp_path, text, told, only=("pcie",))


def _shown(address: str) -> str:
    """What lspci makes of a function's registers, as one line."""
    done = subprocess.run(["lspci", "-vvv", "-s", address], check=True, capture_output=True, text=True)
    return " ".join(done.stdout.split())


def _writes() -> int:
    return int((MODULE / "writes").read_text())


def _topology(capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["topology", "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def _told(document: Any, subject: str) -> list[str]:
    return [found["problem"] for found in document["findings"] if found["subject"] == subject]


def test_the_way_between_gpu_and_nics_is_drawn_with_what_slows_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = _writes()
    found = _topology(capsys)
    assert found["matrix"]["GPU0"] == {"GPU0": "X", NEAR: "PIX", FAR: "PXB", STUBBORN: "PHB", OTHER: "SYS"}
    assert found["matrix"][NEAR] == {"GPU0": "PIX", NEAR: "X", FAR: "PXB", STUBBORN: "PHB", OTHER: "SYS"}
    assert [(rail["nic"], rail["relation"]) for rail in found["rails"]] == [(NEAR, "PIX"), (FAR, "PXB")]
    assert _told(found, f"nic {NEAR}") == [
        "its link is x8 of x16",
        "its link runs at 8 of 16 GT/s",
        "MaxReadReq is 512 bytes",
        "relaxed ordering is off",
    ]
    assert _told(found, f"nic {STUBBORN}") == [
        "MaxReadReq is 128 bytes",
        "relaxed ordering is on, and root port 10000:00:01.0 above it gets it wrong",
    ]
    for port in PORTS:
        assert _told(found, f"bridge {port}")[0].startswith("ACS (request redirect, completion redirect, upstream")
    assert "Speed 8GT/s (downgraded), Width x8 (downgraded)" in _shown(NEAR)
    assert "ReqRedir+ CmpltRedir+ UpstreamFwd+" in _shown(PORTS[0])
    assert main(["topology", "--dot"]) == 0
    assert GPU in capsys.readouterr().out
    assert _writes() == before


def test_a_node_file_becomes_what_lspci_shows_and_a_refusal_holds_up_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    outcome = _apply(tmp_path, WISH, told)
    (failure,) = {str(found) for found in outcome.failures}
    assert failure == (
        f"set max read request of {STUBBORN} to 4096 (is 128): reads back as 128 after 4096 was written; "
        "the function does not implement it; remove it from the node file for this machine"
    )
    assert sorted(line for line in told.lines if STUBBORN not in line) == sorted(
        [
            *(f"act set max read request of {nic} to 4096 (is 512)" for nic in (NEAR, FAR, OTHER)),
            f"act set relaxed ordering of {NEAR} to on (is off)",
            *(f"act set acs redirect of {port} to 0x0 (is 0x1c)" for port in PORTS),
        ]
    )
    for nic in (NEAR, FAR, OTHER):
        assert "RlxdOrd+" in (shown := _shown(nic))
        assert "MaxPayload 256 bytes, MaxReadReq 4096 bytes" in shown
    for port in PORTS:
        assert "ACSCtl: SrcValid+ TransBlk- ReqRedir- CmpltRedir- UpstreamFwd-" in _shown(port)
    assert "MaxReadReq 128 bytes" in _shown(STUBBORN)
    assert "ReqRedir+ CmpltRedir+ UpstreamFwd+" in _shown("10000:00:00.0")  # above the way between them
    # The function that refuses leaves the bus: what is left is as the file says, and nothing is written again.
    (FUNCTIONS / STUBBORN / "remove").write_text("1")
    before = _writes()
    second = _apply(tmp_path, WISH)
    assert second.plan.converged, text_of(second.plan)
    assert (second.steps_taken, _writes()) == (0, before)
    assert not [line for line in _topology(capsys)["findings"] if "link" not in line["problem"]]


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    (FUNCTIONS / STUBBORN / "remove").write_text("1")
    assert _apply(tmp_path, WISH).plan.converged
    outcome = _apply(tmp_path, "pcie: {max_read_request: 512, relaxed_ordering: false, acs_redirect: true}")
    assert outcome.plan.converged, text_of(outcome.plan)
    assert "MaxReadReq 512 bytes" in (shown := _shown(FAR))
    assert "RlxdOrd-" in shown
    assert "ACSCtl: SrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+" in _shown(PORTS[3])


def test_what_may_not_be_set_is_left_and_named(tmp_path: Path) -> None:
    files = LocalFiles()
    write_setting(files, STUBBORN, PcieSetting.RELAXED_ORDERING, 0)
    with pytest.raises(UnsupportedError, match="does not show that register"):
        write_setting(files, "10000:01:00.0", PcieSetting.ACS_REDIRECT, 0)  # upstream ports have no ACS
    (FUNCTIONS / FAR / "driver_override").write_text("vfio-pci")
    outcome = _apply(tmp_path, "pcie: {relaxed_ordering: true, acs_redirect: false}")
    assert [obstacle.problem for obstacle in outcome.plan.obstacles] == [
        "root port 10000:00:01.0 above it gets relaxed ordering wrong",
        f"redirect stays on {', '.join(PORTS)}: functions go to virtual machines ({FAR}), which it keeps apart",
    ]
    assert "RlxdOrd-" in _shown(STUBBORN)
    assert "RlxdOrd+" in _shown(NEAR)
    assert "ReqRedir+" in _shown(PORTS[0])


def test_a_card_that_falls_off_the_bus_is_named_and_the_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (FUNCTIONS / STUBBORN / "remove").write_text("1")
    (MODULE / "silent").write_text("4")
    with pytest.raises(GoneError, match=f"set max read request of {NEAR}: it does not answer"):
        write_setting(LocalFiles(), NEAR, PcieSetting.MAX_READ_REQUEST, 4096)
    outcome = _apply(tmp_path, "pcie: {max_read_request: 4096}")
    assert [str(obstacle.problem) for obstacle in outcome.plan.obstacles] == [
        "it does not answer: its configuration space reads as all ones"
    ]
    assert "MaxReadReq 4096 bytes" in _shown(FAR)
    assert (
        _told(_topology(capsys), f"nic {NEAR}")[-1] == "it does not answer: its configuration space reads as all ones"
    )
    (MODULE / "silent").write_text("-1")
    assert _apply(tmp_path, "pcie: {max_read_request: 4096}").plan.converged
    assert "MaxReadReq 4096 bytes" in _shown(NEAR)
