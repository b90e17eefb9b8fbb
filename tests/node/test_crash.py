"""The agent dies at every instant of a transition; the next run finds the node, finishes, and owes nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from mortal import CHANGES, in_child, mortal
from nodeagent.host.lock import node_lock
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.simulation.kernel_state import LoadedModule
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from sim_node import PERSISTENCED, SimNode, Told, loaded, sim_node

NEVER = 1_000_000
SMALL, DGX = "gpu-server-4x-a100", "dgx-a100"
STACK = {
    SMALL: "nvidia: {{drm: true, parameters: {{EnableStreamMemOPs: {}}}}}, gdrcopy: true",
    DGX: "nvidia: {{parameters: {{EnableStreamMemOPs: {}}}}}, rdma: {{}}, peermem: nvidia_peermem, gdrcopy: true",
}
MIG = ("{mode: disabled}", "{mode: enabled, devices: {3g.20gb: 1, 1g.5gb: 2}}")


def goals(profile: str, change: str) -> tuple[str, str]:
    """Two node files that differ in one thing: from one to the other is the transition under test."""
    first, second = ((0, 1), (0, 0)) if change == "driver reload" else ((0, 0), (0, 1))
    return tuple(
        f"modules: {{{STACK[profile].format(parameter)}}}\nmig: [{MIG[mig]}]\n"
        for parameter, mig in zip(first, second, strict=True)
    )


@dataclass(frozen=True)
class Ends:
    """What the node is like at the two ends of the transition, when nobody dies on the way."""

    texts: tuple[str, str]
    modules: tuple[dict[str, LoadedModule], ...]
    instances: tuple[list[list[str]], ...]

    def is_at(self, node: SimNode, end: int) -> bool:
        return (
            loaded(node.kernel) == self.modules[end]
            and node.instances() == self.instances[end]
            and PERSISTENCED in node.kernel.services
            and not node.journal.exists()
        )


def run_once(directory: str, profile: str, file: str, instant: int, ports: tuple[str, ...]) -> int:
    """What `nodeagent apply` does, with a fuse; 0 when the node is then as the file says."""
    host = mortal(open_node(profile, directory).host("in-process"), instant, ports)
    with node_lock(directory):
        goal = goal_of(read_spec(file))
        outcome = converge(goal, Context(Observer(host), Journal(host.files), Told()))
    return 0 if outcome.plan.converged and not outcome.failures else 1


def explore(node: SimNode, profile: str, change: str) -> Ends:
    """Go to both ends without dying, and back to the first."""
    texts = goals(profile, change)
    assert node.converge(texts[0]).plan.converged
    node.host.services.start(PERSISTENCED)
    modules, instances = [], []
    for text in (*texts, texts[0]):
        assert node.converge(text).plan.converged
        modules.append(loaded(node.kernel))
        instances.append(node.instances())
    node.host.nvml.release()
    return Ends(texts, tuple(modules[:2]), tuple(instances[:2]))


LANES = 4


@pytest.mark.parametrize("lane", range(LANES))
@pytest.mark.parametrize("change", ["driver reload", "mig mode"])
def test_killed_before_and_after_every_change_the_next_run_finishes(tmp_path: Path, change: str, lane: int) -> None:
    """Forth and back, each time one instant later, until a run is through before its fuse has burnt down."""
    every_instant(tmp_path, SMALL, change, tuple(CHANGES), range(1 + lane, NEVER, LANES))


@pytest.mark.parametrize("change", ["driver reload", "mig mode"])
def test_killed_around_every_step_with_nvidia_peermem_in_the_way(tmp_path: Path, change: str) -> None:
    every_instant(tmp_path, DGX, change, ("kmod", "nvml", "services"), range(1, NEVER, 2))


def every_instant(tmp_path: Path, profile: str, change: str, ports: tuple[str, ...], instants: range) -> None:
    with sim_node(tmp_path, profile, "in-process") as node:
        ends = explore(node, profile, change)
        end, died = 0, 0
        for instant in instants:
            end = 1 - end
            file = node.write(ends.texts[end])
            place = node.node.directory
            code = in_child(partial(run_once, place, profile, file, instant, ports))
            if code == 0:
                break
            assert code == -signal.SIGKILL, instant
            died += 1
            assert in_child(partial(run_once, place, profile, file, NEVER, ports)) == 0, instant
            assert ends.is_at(node, end), (instant, node.kernel.services, node.instances())
            assert node.converge(ends.texts[end]).steps_taken == 0
            node.host.nvml.release()
        assert ends.is_at(node, end)
        assert died > 3


@pytest.mark.parametrize("change", ["driver reload", "mig mode"])
def test_the_command_killed_at_any_moment_with_its_worker_finishes_next_time(tmp_path: Path, change: str) -> None:
    """SIGKILL shortly after some line of progress: also in the middle of a step, or of a write of the journal."""
    chance = random.Random(change)
    with sim_node(tmp_path, SMALL, "in-process") as node:
        ends = explore(node, SMALL, change)
        for turn in range(1, 7):
            file = node.write(ends.texts[turn % 2])
            with start_apply(node, file) as apply:
                assert apply.stderr is not None
                for _ in range(chance.randrange(1, 14)):
                    apply.stderr.readline()
                time.sleep(chance.random() / 50)
                apply.kill()
                apply.communicate()
            with start_apply(node, file) as apply:
                text = "".join(apply.communicate())
            assert apply.returncode == 0, text
            assert ends.is_at(node, turn % 2), (turn, text)


def start_apply(node: SimNode, file: str) -> subprocess.Popen[str]:
    where = ("--simulate", SMALL, "--simulate-dir", node.node.directory, "--file", file)
    command = [sys.executable, "-m", "nodeagent", "apply", *where]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)
