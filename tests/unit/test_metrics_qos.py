"""Which priority is lossless, and which one RoCE's packets get: configured, beside what the driver counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metrics_view import DCB, NODE, full_view
from nodeagent.metrics.exposition import plain_text
from nodeagent.metrics.render import blocks
from nodeagent.state.qos import DcbState


def lines(view, name: str) -> list[str]:
    return [line for line in plain_text(blocks(view)).decode().splitlines() if line.startswith(name + "{")]


def with_dcb(dcb: DcbState | None):
    view = full_view()
    netdevs = {**NODE.netdevs, "ens1": replace(NODE.netdevs["ens1"], dcb=dcb)}
    return replace(view, node=replace(NODE, netdevs=netdevs))


def test_every_priority_says_whether_it_is_lossless():
    found = lines(full_view(), "nodeagent_netdev_priority_lossless")
    assert len(found) == 8
    place = 'netdev="ens1",pci_bus_id="0000:5e:00.0"'
    assert f'nodeagent_netdev_priority_lossless{{{place},priority="3"}} 1' in found
    assert sum(line.endswith(" 1") for line in found) == 1


def test_pause_frames_have_a_direction():
    found = lines(full_view(), "nodeagent_netdev_pfc_frames_total")
    assert [line.rpartition(" ")[2] for line in found if 'priority="3"' in line] == ["5", "4"]
    assert 'direction="received"' in found[0]


def test_shares_of_classes_with_strict_ones_left_out():
    found = lines(full_view(), "nodeagent_netdev_traffic_class_bandwidth_ratio")
    assert [line[-len('"3"} 0.6') :] for line in found] == ['"3"} 0.6', '"7"} 0.4']


def test_roce_goes_where_its_dscp_leads():
    (line,) = lines(full_view(), "nodeagent_rdma_port_roce_priority")
    assert line.endswith(" 3"), "type of service 106 is DSCP 26"


@pytest.mark.parametrize("dcb", [None, DcbState(), replace(DCB, app=())])
def test_what_is_not_known_is_left_out(dcb):
    assert lines(with_dcb(dcb), "nodeagent_rdma_port_roce_priority") == []
    assert len(lines(with_dcb(dcb), "nodeagent_netdev_priority_lossless")) in {0, 8}


def test_the_gid_index_of_a_port():
    (line,) = lines(full_view(), "nodeagent_rdma_port_roce_gid_index")
    assert line.endswith(" 3")
    assert 'device="mlx5_0"' in line
