"""nvidia-smi for tests: the machine's own, or that of Debian's section non-free, unpacked and never installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from next_release import Wanted, unpacked
from nodeagent.simulation.node import open_node

WANTED = Wanted("nvidia-smi", "install nvidia-smi", component="non-free", keep=("usr/lib/nvidia/current/nvidia-smi",))
CACHE = Path(__file__).parents[1] / ".cache" / "nvidia-smi"
PROGRAM = "usr/lib/nvidia/current/nvidia-smi"


def obtain() -> str:
    """The program's path."""
    return shutil.which("nvidia-smi") or str(unpacked(WANTED, CACHE) / PROGRAM)


def environment_of(directory: Path, profile: str) -> dict[str, str]:
    """What makes nvidia-smi see the GPUs of the simulated node in `directory`."""
    node = open_node(profile, str(directory))
    try:
        return dict(node.nvml_environment)
    finally:
        node.machine.close()
