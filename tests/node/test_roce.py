"""RoCE on a simulated node: from the node file to the ports, what the kernel refuses, and a driver reload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, GoneError, UnsupportedError
from nodeagent.host.gid_facts import read_gids
from nodeagent.resources.gid_selection import choose_gid
from nodeagent.state.gids import ROCE_V1, ROCE_V2
from nodeagent.state.network import RdmaPort
from sim_node import SimNode, sim_node, text_of

RAILS = """\
modules: {rdma: {}}
links: [{match: "rail:*", up: true, mtu: 4200}]
roce:
  netns: exclusive
  devices: [{match: "rail:*", mode: v2, tos: 106, traffic_class: 106}]
"""
# The compute NICs of the DGX A100 User Guide, in the order of their GPUs.
COMPUTE = ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3", "mlx5_6", "mlx5_7", "mlx5_8", "mlx5_9"]


def ports(sim: SimNode) -> dict[str, RdmaPort]:
    return {name: device.ports[0] for name, device in sim.observer.observe((), with_roce=True).rdma.items()}


def test_the_rails_become_as_the_file_says_and_nothing_moves_after(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        outcome = sim.converge(RAILS)
        assert outcome.failures == ()
        found = ports(sim)
        marked = [name for name, port in found.items() if (port.roce_tos, port.traffic_class) == (106, 106)]
        assert sorted(marked) == COMPUTE
        assert {found[name].roce_mode for name in found} == {ROCE_V2}
        assert sim.observer.observe((), with_roce=True).rdma_netns_shared is False
        before = sim.everything()
        assert sim.plan(RAILS).transitions == ()
        sim.converge(RAILS)
        assert sim.everything() == before


def test_settings_that_a_driver_reload_took_away_come_back(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        sim.converge(RAILS)
        sim.node.kernel.change(lambda state: replace(state, markings={}))
        assert ports(sim)["mlx5_0"].roce_tos == 0
        sim.converge(RAILS)
        assert ports(sim)["mlx5_0"].roce_tos == 106


def test_another_network_namespace_stands_in_the_way_of_the_mode_only(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        sim.node.kernel.change(lambda state: replace(state, other_namespaces=1))
        outcome = sim.converge(RAILS)
        assert [str(failure.step) for failure in outcome.failures] == [
            "set network namespace mode of the rdma stack to exclusive"
        ]
        assert {port.roce_tos for name, port in ports(sim).items() if name in COMPUTE} == {106}


def test_the_simulated_kernel_refuses_as_linux_does(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        links = sim.host.links
        with pytest.raises(UnsupportedError, match="there is none; load ib_core"):
            links.set_rdma_netns_shared(False)
        with pytest.raises(GoneError, match="load rdma_cm and mount configfs"):
            links.set_roce_tos("mlx5_0", 1, 106)
        sim.converge("modules: {rdma: {}}")
        with pytest.raises(GoneError, match="there must be an RDMA device enp12s0np0"):
            links.set_roce_tos("enp12s0np0", 1, 106)
        with pytest.raises(UnsupportedError):
            links.set_roce_mode("mlx5_0", 1, "RoCE v3")
        with pytest.raises(UnsupportedError):
            links.set_traffic_class("mlx5_0", 1, 256)
        links.set_roce_mode("mlx5_0", 1, ROCE_V1)
        assert (ports(sim)["mlx5_0"].roce_mode, ports(sim)["mlx5_1"].roce_mode) == (ROCE_V1, ROCE_V2)
        sim.node.kernel.change(lambda state: replace(state, other_namespaces=1))
        with pytest.raises(BusyError):
            links.set_rdma_netns_shared(False)


def test_an_inbox_driver_has_no_traffic_class(tmp_path: Path) -> None:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as sim:
        sim.converge("modules: {rdma: {}}")
        assert ports(sim)["mlx5_0"].traffic_class is None
        wanted = 'modules: {rdma: {}}\nroce: {devices: [{match: "rail:0", traffic_class: 106}]}\n'
        assert "its driver cannot force a traffic class; only OFED's drivers have it" in text_of(sim.plan(wanted))


def test_the_gid_to_use_moves_with_its_address(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        sim.converge(RAILS)
        assert choose_gid(read_gids(sim.host.files, "mlx5_0", 1), "enp12s0np0").gid is None
        sim.node.use_interface("enp12s0np0", "10.1.0.1/24")
        sim.node.use_interface("enp12s0np0", "10.2.0.1/24")
        first = choose_gid(read_gids(sim.host.files, "mlx5_0", 1), "enp12s0np0").gid
        assert first is not None
        assert (first.index, first.text) == (3, "10.1.0.1")
        sim.node.kernel.change(
            lambda state: replace(
                state,
                interfaces=state.interfaces
                | {"enp12s0np0": replace(state.interfaces["enp12s0np0"], addresses=("10.2.0.1/24",))},
            )
        )
        second = choose_gid(read_gids(sim.host.files, "mlx5_0", 1), "enp12s0np0").gid
        assert second is not None
        assert second.text == "10.2.0.1"
