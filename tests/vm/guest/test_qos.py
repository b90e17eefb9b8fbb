"""Quality of service on a real kernel: what the agent writes is what iproute2's dcb shows, and the reverse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nodeagent.errors import UnsupportedError
from nodeagent.host.dcb import NetlinkDcb
from nodeagent.host.kmod import LibKmod
from nodeagent.host.local import open_host
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import read_spec
from nodeagent.state.qos import DcbState
from sim_node import Told

NIC = "dcb0"
FILE = "version: 1\nlinks: [{match: dcb0, up: true, qos: {setup: lossless-dscp26-prio3}}]\n"


def _shown(*arguments: str) -> Any:
    """What `dcb -j ... show` prints."""
    command = ["dcb", "-j", *arguments[:1], "show", "dev", NIC, *arguments[1:]]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _dcb(*arguments: str) -> None:
    subprocess.run(["dcb", *arguments], check=True)


def _state() -> DcbState:
    return NetlinkDcb().read_all([NIC])[NIC]


def _writes() -> int:
    return int(Path("/sys/module/stub_dcb/parameters/writes").read_text())


@pytest.fixture
def stub(kmod: LibKmod) -> NetlinkDcb:
    kmod.load("stub_dcb")
    return NetlinkDcb()


@pytest.mark.usefixtures("stub")
def test_a_node_file_becomes_what_dcb_shows(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(FILE)
    host = open_host(10.0)
    context = Context(Observer(host), Journal(host.files), Told())
    goal = goal_of(read_spec(str(file)), only=("links", "qos"))
    outcome = converge(goal, context)
    assert outcome.plan.converged, outcome.plan
    assert _shown("pfc", "prio-pfc")["prio_pfc"] == [priority == 3 for priority in range(8)]
    ets = _shown("ets")
    assert ets["tc_bw"] == [50, 0, 0, 50, 0, 0, 0, 0]
    assert ets["tc_tsa"] == ["ets", "ets", "ets", "ets", "ets", "ets", "strict", "ets"]
    assert ets["prio_tc"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert not ets["willing"]
    assert _shown("app")["dscp_prio"] == [[26, 3], [48, 6]]
    before = _writes()
    assert converge(goal, context).steps_taken == 0
    assert _writes() == before


@pytest.mark.usefixtures("stub")
def test_what_dcb_sets_is_what_is_read() -> None:
    _dcb("pfc", "set", "dev", NIC, "prio-pfc", "all:off", "5:on", "delay", "12")
    _dcb("app", "add", "dev", NIC, "dscp-prio", "10:1", "ethtype-prio", "0x8906:3")
    _dcb("dcbx", "set", "dev", NIC, "host", "ieee")
    # dcb takes bits and writes bytes per second; the kernel (dcbnl.h) and its drivers mean kilobits per second.
    _dcb("maxrate", "set", "dev", NIC, "tc-maxrate", "2:8mbit")
    _dcb("ets", "set", "dev", NIC, "tc-tsa", "all:strict", "prio-tc", "all:0", "7:4")
    found = _state()
    assert found.dcbx == 0x09
    assert found.pfc is not None
    assert (found.pfc.enabled, found.pfc.delay) == ((5,), 12)
    assert (found.pfc.requests[3], found.pfc.indications[3]) == (1000, 2000)
    assert found.dscp == ((10, 1),)
    assert [(row.selector, row.protocol, row.priority) for row in found.app] == [(1, 0x8906, 3), (5, 10, 1)]
    assert found.ets is not None
    assert (found.ets.algorithms, found.ets.class_of) == ((0,) * 8, (0, 0, 0, 0, 0, 0, 0, 4))
    assert found.max_rate_kbit == (0, 0, 1_000_000, 0, 0, 0, 0, 0)
    assert found.buffer is not None
    assert (found.buffer.sizes_bytes[0], found.buffer.total_bytes) == (262016, 524160)


def test_writes_keep_what_they_do_not_mean(stub: NetlinkDcb) -> None:
    _dcb("pfc", "set", "dev", NIC, "delay", "12")
    _dcb("app", "add", "dev", NIC, "dscp-prio", "10:1", "26:1", "ethtype-prio", "0x8906:3")
    stub.write_pfc(NIC, (3, 4))
    stub.write_dscp(NIC, ((26, 3), (48, 6)))
    assert _shown("pfc", "delay")["delay"] == 12
    assert _shown("app") == {"ethtype_prio": [[0x8906, 3]], "dscp_prio": [[26, 3], [48, 6]]}


def test_buffers_are_what_dcb_shows_and_the_reverse(stub: NetlinkDcb) -> None:
    stub.write_buffers(NIC, (0, 0, 0, 1, 0, 0, 0, 0), (98304, 163840, 0, 0, 0, 0, 0, 0))
    shown = _shown("buffer")
    assert shown["prio_buffer"] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert shown["buffer_size"] == [98304, 163840, 0, 0, 0, 0, 0, 0]
    assert shown["total_size"] == 524160
    _dcb("buffer", "set", "dev", NIC, "prio-buffer", "all:0", "5:2", "buffer-size", "all:0", "0:131072", "2:65536")
    found = _state().buffer
    assert found is not None
    assert (found.buffer_of[5], found.sizes_bytes[:3], found.total_bytes) == (2, (131072, 0, 65536), 524160)
    with pytest.raises(UnsupportedError, match="set buffers on dcb0: invalid argument"):
        stub.write_buffers(NIC, (0,) * 8, (524161, 0, 0, 0, 0, 0, 0, 0))
    with pytest.raises(UnsupportedError, match="set buffers on dcb0: read back as"):
        stub.write_buffers(NIC, (0,) * 8, (1000, 0, 0, 0, 0, 0, 0, 0))


def test_refusals_are_seen_although_the_kernel_acknowledges_them(stub: NetlinkDcb) -> None:
    with pytest.raises(UnsupportedError, match="set ets on dcb0: invalid argument"):
        stub.write_ets(NIC, (60, 60, 0, 0, 0, 0, 0, 0), (2,) * 8, (0,) * 8)
    with pytest.raises(UnsupportedError, match="set max rate on dcb0: read back as"):
        stub.write_max_rate(NIC, (150_000, 0, 0, 0, 0, 0, 0, 0))
    assert NetlinkDcb().read_all(["lo", "gone0"]) == {}


def test_a_callback_that_is_missing_is_not_taken_for_success(kmod: LibKmod) -> None:
    kmod.load("stub_dcb", "without_ets=1")
    assert _state().ets is None
    with pytest.raises(UnsupportedError, match="the driver does not offer it"):
        NetlinkDcb().write_ets(NIC, (100, 0, 0, 0, 0, 0, 0, 0), (2,) * 8, (0,) * 8)


def test_control_goes_to_the_host_and_back(stub: NetlinkDcb) -> None:
    stub.write_dcbx(NIC, 0x09)
    assert _state().dcbx == 0x09
    stub.write_dcbx(NIC, 0)
    assert _state().dcbx == 0x08
