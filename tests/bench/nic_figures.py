"""What a NIC costs a pass: CPU time and system calls as their number grows, with more of them in the node file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.passes import calls, cpu_ms
from nodeagent.plan.convergence import Goal, goal_of, survey
from nodeagent.spec.reader import read_spec
from sim_node import SimNode, sim_node

PROFILE = "dgx-a100"
FEW, MANY = 2, 10
STACK = "modules: {rdma: {}}\n"
LINKS = "links: [{match: driver:mlx5_core, up: true, mtu: 9000%s}]\n"
SETTINGS = ", rings: {rx: 2048}, channels: {combined: 8}, coalescing: {rx_usecs: 8}, pause: {rx: false}"
CONGESTION = "roce: {devices: [{match: driver:mlx5_core, congestion: {cnp_dscp: 48, cnp_priority: 6}}]}\n"
WISHES = {
    "state and MTU": STACK + LINKS % "",
    "and rings, channels, coalescing, pause": STACK + LINKS % SETTINGS,
    "and two settings of congestion control": STACK + LINKS % SETTINGS + CONGESTION,
}


@contextmanager
def node_with(directory: Path, nics: int, text: str) -> Iterator[tuple[SimNode, Goal]]:
    """A simulated node on which so many NICs have their driver, as its node file says."""
    with sim_node(directory, PROFILE, "in-process") as node:
        node.converge(STACK)
        ours = [one.pci_address for one in node.kernel.interfaces.values() if one.driver == "mlx5_core"]
        for address in ours[nics:]:
            node.host.files.write(f"/sys/bus/pci/devices/{address}/driver/unbind", address)
        assert node.converge(text).plan.converged
        yield node, goal_of(read_spec(str(node.file)))


def figures(nics: int, name: str, runs: int) -> tuple[float, float]:
    """CPU milliseconds (median) and system calls of a converged pass."""
    with tempfile.TemporaryDirectory() as place:
        with node_with(Path(place), nics, WISHES[name]) as (node, goal):
            milliseconds = cpu_ms(lambda: survey(node.observer, goal), runs)
        program = f"from bench import nic_figures as n; n.look_often({str(place)!r}, {nics}, {name!r}, %d)"
        once, thrice = (calls(Path(place), program % looks) for looks in (1, 3))
    return milliseconds, (thrice - once) / 2


def look_often(place: str, nics: int, name: str, looks: int) -> None:
    with node_with(Path(place), nics, WISHES[name]) as (node, goal):
        for _ in range(looks):
            assert survey(node.observer, goal)[1].converged


def report(runs: int, few: int = FEW, many: int = MANY, names: tuple[str, ...] = tuple(WISHES)) -> Iterator[str]:
    yield f"| node file | {many} NICs, CPU ms | system calls | for each NIC, CPU ms | system calls |"
    yield "|---|---|---|---|---|"
    for name in names:
        (least_ms, least), (most_ms, most) = figures(few, name, runs), figures(many, name, runs)
        each = ((most_ms - least_ms) / (many - few), (most - least) / (many - few))
        yield f"| {name} | {most_ms:.3g} | {most:.4g} | {each[0]:.2g} | {each[1]:.3g} |"
