"""A simulated node with everything that stands on its GPUs, for tests of the agent from node file to outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nodeagent.cli.output import Style
from nodeagent.cli.render import plan_text
from nodeagent.errors import HostError
from nodeagent.host.paths import JOURNAL
from nodeagent.host.ports import Host
from nodeagent.plan.convergence import Outcome, converge, goal_of, survey
from nodeagent.plan.document import plan_document
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal, Phase
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.simulation.kernel_state import KernelState, LoadedModule
from nodeagent.simulation.machine import MigLayout
from nodeagent.simulation.node import SimulatedNode, open_node
from nodeagent.spec.reader import read_spec

PERSISTENCED = "nvidia-persistenced.service"
GIB = 1 << 30


@dataclass
class Told:
    """A report that keeps what it was told; `before` is called before each step, as somebody else on the node acts."""

    before: Callable[[Phase, Step], None] = lambda phase, step: None
    lines: list[str] = field(default_factory=list)

    def started(self, phase: Phase, step: Step) -> None:
        self.before(phase, step)

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None:
        self.lines.append(f"{phase} {step}" + (f": {error}" if error else ""))

    def skipped(self, step: Step, reason: str) -> None:
        self.lines.append(f"skip {step}: {reason}")


@dataclass
class SimNode:
    """A simulated node with the agent's ports on it."""

    node: SimulatedNode
    host: Host
    observer: Observer
    file: Path

    def write(self, text: str) -> str:
        """Make this the node file; its path."""
        self.file.write_text(f"version: 1\n{text}", encoding="utf-8")
        return str(self.file)

    def plan(self, text: str) -> Plan:
        return survey(self.observer, goal_of(read_spec(self.write(text))))[1]

    def converge(self, text: str, told: Told | None = None) -> Outcome:
        goal = goal_of(read_spec(self.write(text)))
        return converge(goal, Context(self.observer, Journal(self.host.files), told or Told()))

    @property
    def kernel(self) -> KernelState:
        return self.node.kernel.state

    def mig(self) -> tuple[MigLayout, ...]:
        """MIG mode and instances of every GPU, in NVML's order."""
        return tuple(self.node.machine.mig_layout(gpu.uuid) for gpu in self.node.machine.gpus)

    def instances(self) -> list[list[str]]:
        """Profiles on every GPU, in NVML's order; a GPU without MIG has none."""
        return [sorted(row.profile for row in layout.rows) for layout in self.mig()]

    def everything(self) -> tuple[KernelState, tuple[MigLayout, ...]]:
        """All that the simulated machine is."""
        return self.kernel, self.mig()

    def marks(self) -> dict[str, int]:
        """Every file of the node with the time of its last change, but for the lock and the simulation's own."""
        found = (os.path.join(folder, name) for folder, _, names in os.walk(self.node.directory) for name in names)
        files = (path for path in found if "/.simulation/" not in path and not path.endswith("/lock"))
        return {path: os.lstat(path).st_mtime_ns for path in files}

    def uuid(self, index: int) -> str:
        return self.node.machine.gpus[index].uuid

    @property
    def journal(self) -> Path:
        return Path(self.node.directory + JOURNAL)


@contextmanager
def sim_node(directory: Path, profile: str, nvml: Literal["worker", "in-process"] = "worker") -> Iterator[SimNode]:
    """A simulated node in `directory`/node, its node file beside it. A worker ends with the block."""
    node = open_node(profile, str(directory / "node"))
    host = node.host(nvml)
    try:
        yield SimNode(node, host, Observer(host), directory / "node.yaml")
    finally:
        host.nvml.close()
        node.machine.close()


def text_of(plan: Plan) -> str:
    """The plan as `nodeagent plan` prints it."""
    return plan_text(plan_document(plan), Style(enabled=False))


def loaded(state: KernelState) -> dict[str, LoadedModule]:
    """The loaded modules apart from when they were loaded."""
    return {name: replace(found, serial=0) for name, found in state.modules.items()}
