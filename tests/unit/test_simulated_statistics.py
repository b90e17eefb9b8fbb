"""What drivers of simulated NICs count: bytes on RoCE's priority, pauses where it is lossless, loss where not."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest

from nodeagent.metrics.netdev_metrics import is_wanted
from nodeagent.simulation.driver_statistics import SimulatedStatistics, busy_seconds
from sim_node import sim_node

LOSSLESS = """
modules: {rdma: {}}
links: [{match: "driver:mlx5_core", up: true, qos: {setup: lossless-dscp26-prio3}}]
roce: {devices: [{match: "rail:*", mode: v2, tos: 106}]}
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with sim_node(tmp_path_factory.mktemp("n"), "gpu-server-4x-a100", "in-process") as started:
        started.converge(LOSSLESS)
        started.node.kernel.change(lambda state: replace(state, booted_at=time.time() - 1000))
        yield started


def read(node):
    return SimulatedStatistics(node.node.kernel)(["ens1f0np0", *node.kernel.interfaces])


def test_waves_never_fall_and_are_the_time_in_the_long_run():
    for number in range(10):
        values = [busy_seconds(second / 2, number) for second in range(2000)]
        assert values[0] == 0
        assert all(later > earlier for earlier, later in itertools.pairwise(values))
        assert values[-1] == pytest.approx(1000, rel=0.1)


def test_bytes_are_on_the_lossless_priority(node):
    found = read(node)
    assert found
    for values in found.values():
        assert all(is_wanted(name) for name in values)
        assert values["tx_prio3_bytes"] == values["tx_vport_rdma_unicast_bytes"] > 100 * values["tx_prio0_bytes"]
        assert values["rx_prio3_pause_duration"] > 0
        assert values["rx_discards_phy"] == 0


def test_without_flow_control_packets_are_lost(node):
    name = next(iter(read(node)))
    was = node.kernel.interfaces[name]

    def put(interface):
        node.node.kernel.change(
            lambda state: replace(state, interfaces={**state.interfaces, interface.name: interface})
        )

    put(replace(was, pfc=(), dscp=()))
    values = read(node)[name]
    put(replace(was, up=False))
    down = read(node)[name]
    put(was)
    assert values["tx_prio0_bytes"] > values["tx_vport_rdma_unicast_bytes"] > 0 == values["tx_prio3_bytes"]
    assert values["rx_discards_phy"] > 0
    assert "rx_prio3_pause_duration" not in values
    assert down["tx_vport_rdma_unicast_bytes"] == 0
