"""The real boards that the NVML simulator has tables of, by name."""

from __future__ import annotations

from nodeagent.errors import GoneError
from nodeagent.simulation import boards_ampere, boards_blackwell, boards_hopper
from nodeagent.simulation.board import Board

BOARDS = {
    "A30": boards_ampere.A30,
    "A100-SXM4-40GB": boards_ampere.A100_SXM4_40GB,
    "A100-PCIE-40GB": boards_ampere.A100_PCIE_40GB,
    "A100-SXM4-80GB": boards_ampere.A100_SXM4_80GB,
    "A100-PCIE-80GB": boards_ampere.A100_PCIE_80GB,
    "H100-80GB-HBM3": boards_hopper.H100_80GB_HBM3,
    "H100-NVL-94GB": boards_hopper.H100_NVL,
    "H100-96GB-HBM3": boards_hopper.H100_96GB,
    "GH200-96GB": boards_hopper.GH200_96GB,
    "GH200-144GB": boards_hopper.GH200_144GB,
    "H200-141GB": boards_hopper.H200_141GB,
    "H20-96GB": boards_hopper.H20_96GB,
    "B200-180GB": boards_blackwell.B200_180GB,
    "GB200-186GB": boards_blackwell.GB200_186GB,
    "B300-269GB": boards_blackwell.B300_269GB,
    "GB300-278GB": boards_blackwell.GB300_278GB,
    "RTX-PRO-6000": boards_blackwell.RTX_PRO_6000,
}


def board_named(name: str) -> Board:
    """The board of this name, with hyphens or spaces. GoneError for one that has no table."""
    found = BOARDS.get(name.replace(" ", "-"))
    if found is None:
        raise GoneError("find", f"board {name}", f"there are tables for {', '.join(BOARDS)}")
    return found
