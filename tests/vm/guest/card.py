"""What the tests of cards with SR-IOV share: the agent on the sections about them, and what iproute2 shows."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from nodeagent.host.files import LocalFiles
from nodeagent.host.local import open_host
from nodeagent.host.pci_facts import read_pci
from nodeagent.plan.convergence import Outcome, converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import read_spec
from sim_node import Told
from vm.guest import kernel

if TYPE_CHECKING:
    from pathlib import Path

    from nodeagent.host.kmod import LibKmod
    from nodeagent.state.network import PciFunction

SECTIONS = ("links", "devlink", "sriov", "sandbox")


def load(kmod: LibKmod, name: str, options: str = "") -> None:
    for file in kmod.lookup(name):
        if not file.builtin and file.name not in kernel.loaded():
            kmod.load(file.name, options if file.name == name else "")


def shown(*arguments: str) -> Any:
    """What iproute2 prints as JSON."""
    done = subprocess.run([arguments[0], "-j", *arguments[1:]], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def run(tmp_path: Path, text: str, told: Told | None = None, only: tuple[str, ...] = SECTIONS) -> Outcome:
    """Converge the sections about the card."""
    file = tmp_path / "node.yaml"
    file.write_text(f"version: 1\n{text}")
    host = open_host(10.0)
    goal = goal_of(read_spec(str(file)), only=only)
    try:
        return converge(goal, Context(Observer(host), Journal(host.files), told or Told()))
    finally:
        host.nvml.close()


def functions() -> list[PciFunction]:
    """The virtual functions that there are."""
    return [found for found in read_pci(LocalFiles()).values() if found.is_vf]
