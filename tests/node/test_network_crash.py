"""The agent dies before each change of a whole network set-up: the next run finishes, and owes nothing."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

from mortal import in_child, mortal
from nodeagent.host.congestion import read_congestion
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from nodeagent.state.topology import PcieSetting
from sim_node import SimNode, Told, sim_node, text_of

PROFILE, PF, NIC = "gpu-server-4x-a100", "0000:61:00.0", "enp97s0np0"
FILE = """\
modules: {{rdma: {{stack: inbox}}}}
disruption: {{nic: allow}}
pcie: {{max_read_request: {read}}}
links:
- match: {nic}
  up: true
  mtu: {mtu}
  rings: {{rx: {rings}}}
  features: {{lro: {lro}}}
  ipv4: {{arp_ignore: {arp}}}
  addresses: ["10.1.0.{host}/24"]
  routes: [{{to: 10.9.0.0/16, via: 10.1.0.254, metric: {host}}}]
  rules: [{{source: 10.1.0.{host}, table: 100}}]
  qos: {{setup: {setup}}}
roce:
  devices: [{{match: "{pf}", name: {rdma}, tos: {tos}, congestion: {{cnp_dscp: {dscp}}}}}]
"""
ENDS = (
    {"read": 4096, "mtu": 9000, "rings": 2048, "lro": "true", "arp": 1, "host": 1, "setup": "lossless-dscp26-prio3",
     "rdma": "rail0", "tos": 106, "dscp": 48},
    {"read": 2048, "mtu": 4200, "rings": 4096, "lro": "false", "arp": 2, "host": 2, "setup": "lossy-dscp26-prio3",
     "rdma": "rail1", "tos": 104, "dscp": 46},
)  # fmt: skip
TEXTS = tuple(FILE.format(nic=NIC, pf=PF, **one) for one in ENDS)
PORTS = ("links", "files")


def _run_once(directory: str, file: str, instant: int) -> int:
    host = mortal(open_node(PROFILE, directory).host("in-process"), instant, PORTS)
    outcome = converge(goal_of(read_spec(file)), Context(Observer(host), Journal(host.files), Told()))
    return 0 if outcome.plan.converged and not outcome.failures else 1


def _is(node: SimNode) -> tuple[object, ...]:
    kernel = node.kernel
    mlx5 = (kernel.interfaces[NIC], kernel.rules, kernel.rdma_names, kernel.markings)
    congestion = read_congestion(node.host.files, [PF])
    request = node.host.files.read_bytes(f"/sys/bus/pci/devices/{PF}/config", 256)
    return *mlx5, congestion, request


def test_a_crash_before_any_change_of_a_network_loses_nothing(tmp_path: Path) -> None:
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        wanted = {}
        for end in (1, 0, 1, 0):  # the first time some values are the driver's own, and nobody's
            outcome = node.converge(TEXTS[end])
            assert outcome.plan.converged, text_of(outcome.plan)
            wanted[end] = _is(node)
        deaths = 0
        for instant in range(1, 400, 11):
            end = 1 - end
            code = in_child(partial(_run_once, node.node.directory, node.write(TEXTS[end]), instant))
            assert code in (0, -signal.SIGKILL), instant
            deaths += code != 0
            outcome = node.converge(TEXTS[end])
            assert outcome.plan.converged, (instant, text_of(outcome.plan))
            assert _is(node) == wanted[end], instant
            assert not node.journal.exists()
            if code == 0:
                break
        assert deaths > 5


def test_every_change_of_a_network_is_among_those_that_are_died_before(tmp_path: Path) -> None:
    """Else a step that is added would never be tried here."""
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        told = Told()
        assert node.converge(TEXTS[0]).plan.converged
        assert node.converge(TEXTS[1], told).plan.converged
        acts = " ".join(line for line in told.lines if line.startswith("act"))
        for word in (
            PcieSetting.MAX_READ_REQUEST,
            "np_cnp_dscp",
            "rings",
            "add route",
            "add rule",
            "rename rdma device",
            "mtu",
            "pfc",
        ):
            assert word in acts, (word, acts)
