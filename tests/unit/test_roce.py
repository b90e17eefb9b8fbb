"""Section `roce`: plans, what is refused, the node file's rules, codecs; and what NCCL is told."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nodeagent.errors import GoneError
from nodeagent.host.files import LocalFiles
from nodeagent.host.netlink_codec import Message, attribute
from nodeagent.host.rdma_netlink import SYS_GET, netns_mode, parse_netns_shared, read_netns_shared
from nodeagent.host.roce_defaults import (
    MODE,
    parse_traffic_class,
    read_defaults,
    read_traffic_class,
    write_default,
    write_traffic_class,
)
from nodeagent.resources import roce
from nodeagent.resources.base import Step, Wish
from nodeagent.resources.gid_selection import GidChoice
from nodeagent.resources.nccl import Port, conf_lines, nccl_settings, shell_lines
from nodeagent.spec.reader import examine
from nodeagent.spec.roce import RdmaNetns, Roce, RoceEntry, RoceMode
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gids import ROCE_V1, ROCE_V2, Gid
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.things import Kind, Thing
from trees import make_tree

PORT = RdmaPort(1, "ACTIVE", "Ethernet", "ens1", roce_mode=ROCE_V2, roce_tos=0, traffic_class=0)
LOADED = {"rdma_cm": KernelModule("rdma_cm", Liveness.LIVE)}


def state(*ports: RdmaPort, modules: Mapping[str, KernelModule] | None = None, shared: bool | None = True) -> NodeState:
    devices = {f"mlx5_{number}": RdmaDevice(f"mlx5_{number}", "g", ports=(port,)) for number, port in enumerate(ports)}
    return NodeState(rdma=devices, modules=LOADED if modules is None else modules, rdma_netns_shared=shared)


def wish(found: NodeState, *entries: RoceEntry, netns: RdmaNetns | None = None) -> Wish:
    return roce.plan(NodeSpec(version=1, roce=Roce(entries, netns)), found)


def texts(found: Wish) -> list[str]:
    return [str(step) for step in found.steps]


def problems(found: Wish) -> list[tuple[str, bool]]:
    return [(f"{one.subject.name}: {one.problem}", one.waits) for one in found.obstacles]


ALL = RoceEntry("rdma:*", RoceMode.V2, 106, 106)


def test_only_what_differs_is_set() -> None:
    done = replace(PORT, roce_tos=106, traffic_class=106)
    assert texts(wish(state(PORT, done), ALL)) == [
        "set roce tos of mlx5_0 port 1 to 106 (is 0)",
        "set traffic class of mlx5_0 port 1 to 106 (is 0)",
    ]
    assert texts(wish(state(replace(done, roce_mode=ROCE_V1)), ALL)) == [
        "set roce mode of mlx5_0 port 1 to RoCE v2 (is IB/RoCE v1)"
    ]
    assert wish(state(done), ALL) == Wish()
    assert wish(state(PORT), RoceEntry("rdma:*")) == Wish()
    assert roce.plan(NodeSpec(version=1), state(PORT)) == Wish()


def test_a_plan_is_empty_after_its_steps() -> None:
    before = state(replace(PORT, roce_mode=ROCE_V1), shared=True)
    found = wish(before, ALL, netns=RdmaNetns.EXCLUSIVE)
    after = state(replace(PORT, roce_tos=106, traffic_class=106), shared=False)
    assert len(found.steps) == 4
    for step in found.steps:
        undone = step.undo()
        assert undone is not None
        assert (step.satisfied(before), step.satisfied(after)) == (False, True)
        assert (undone.satisfied(before), undone.satisfied(after)) == (True, False)
        assert undone.undo() == replace(step, reason="undo")
        assert not step.satisfied(NodeState())
    assert wish(after, ALL, netns=RdmaNetns.EXCLUSIVE) == Wish()


def test_every_step_class_can_be_read_back_by_the_journal() -> None:
    from nodeagent.resources.registry import STEPS  # noqa: PLC0415

    kinds = {kind for kind in vars(roce).values() if isinstance(kind, type) and issubclass(kind, Step)} - {Step}
    assert kinds <= set(STEPS.values())


@pytest.mark.parametrize(
    ("port", "entry", "problem", "waits"),
    [
        (replace(PORT, link_layer="InfiniBand"), ALL, "port 1 is InfiniBand, which has no RoCE", False),
        (replace(PORT, traffic_class=None), ALL, "its driver cannot force a traffic class", False),
        (replace(PORT, roce_mode=""), ALL, "the defaults of rdma_cm cannot be read", False),
    ],
)
def test_what_a_port_cannot_do(port: RdmaPort, entry: RoceEntry, problem: str, waits: bool) -> None:
    found = wish(state(port, replace(PORT, roce_tos=106, traffic_class=106)), entry)
    assert found.steps == ()
    assert problems(found) == [(f"mlx5_0: {problem}", waits)]


def test_what_time_may_solve_waits() -> None:
    unread = replace(PORT, roce_mode="", roce_tos=None, traffic_class=None)
    assert problems(wish(state(unread, modules={}), RoceEntry("rdma:*", tos=106))) == [
        ("mlx5_0: rdma_cm is not loaded", True)
    ]
    assert problems(wish(state(), ALL)) == [("rdma:*: there are no rdma devices", True)]
    assert problems(wish(state(shared=None), netns=RdmaNetns.SHARED)) == [("rdma stack: there is no rdma stack", True)]


def test_an_entry_that_matches_nothing_and_two_that_match_one_device_leave_the_others() -> None:
    found = wish(state(PORT, PORT), ALL, RoceEntry("rdma:mlx5_0", tos=1), RoceEntry("rdma:none", tos=1))
    assert problems(found) == [
        ("rdma:none: no rdma device matches", False),
        ("mlx5_0: `rdma:*` and `rdma:mlx5_0` both match it", False),
    ]
    assert {step.subject for step in found.steps} == {Thing(Kind.RDMA, "mlx5_1")}


def test_the_node_files_rules() -> None:
    text = """\
version: 1
roce:
  netns: shared
  devices:
    - {match: "rail:*", tos: 106, traffic_class: 104}
    - {match: "rail:*", mode: v2}
    - {match: "rdma:mlx5_0"}
    - {match: "rdma:mlx5_1", tos: 256}
    - {match: "rdma:mlx5_2", mode: v3}
"""
    report = examine(text, "node.yaml")
    found = [f"{one.path}: {one.problem}" for one in (*report.problems, *report.hints)]
    assert [line.split(";")[0] for line in found] == [
        "roce.devices[1].match: rail:* is also the match of roce.devices[0]",
        "roce.devices[3].tos: expected a whole number from 0 to 255, found 256",
        "roce.devices[4].mode: expected one of v1, v2, found v3",
        "roce.devices[0].tos: traffic_class 104 overrides it on every queue pair",
        "roce.devices[2]: this entry wants nothing",
    ]


# Configfs and sysfs.


class Configfs(LocalFiles):
    """A tree in which making a device's directory brings its files, and removing it takes them."""

    def make_directory(self, path: str) -> None:
        super().make_directory(path)
        make_tree(Path(self.root), {f"{path}/ports/1/{MODE}": ROCE_V2, f"{path}/ports/1/default_roce_tos": "0"})

    def remove_directory(self, path: str) -> None:
        for name in (f"ports/1/{MODE}", "ports/1/default_roce_tos"):
            self.remove(f"{path}/{name}")
        for name in ("/ports/1", "/ports", ""):
            super().remove_directory(path + name)


def test_reading_the_defaults_leaves_no_directory_but_that_of_others(tmp_path: Path) -> None:
    base = tmp_path / "sys/kernel/config/rdma_cm"
    base.mkdir(parents=True)
    files = Configfs(str(tmp_path))
    assert read_defaults(files, "mlx5_0", 1) == (ROCE_V2, 0)
    assert list(base.iterdir()) == []
    files.make_directory("/sys/kernel/config/rdma_cm/mlx5_0")
    assert read_defaults(files, "mlx5_0", 1) == (ROCE_V2, 0)
    write_default(files, "mlx5_0", 1, MODE, ROCE_V1)
    assert read_defaults(files, "mlx5_0", 1) == (ROCE_V1, 0)
    assert [path.name for path in base.iterdir()] == ["mlx5_0"]


def test_without_rdma_cm_nothing_is_known_and_nothing_can_be_set(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/sys/class/infiniband/mlx5_0/tc/1/traffic_class": "Global tclass=106"})
    assert read_defaults(files, "mlx5_0", 1) == ("", None)
    with pytest.raises(GoneError, match="load rdma_cm and mount configfs; there must be an RDMA device mlx5_0"):
        write_default(files, "mlx5_0", 1, MODE, ROCE_V2)
    assert read_traffic_class(files, "mlx5_0", 1) == 106
    write_traffic_class(files, "mlx5_0", 1, 0)
    assert read_traffic_class(files, "mlx5_0", 1) == 0
    assert read_traffic_class(files, "mlx5_1", 1) is None


@pytest.mark.parametrize(("text", "value"), [("", 0), ("-1", 0), ("106", 106), ("Global tclass=96\n", 96), ("x", 0)])
def test_traffic_class_as_drivers_write_it(text: str, value: int) -> None:
    assert parse_traffic_class(text) == value


def test_netns_mode_by_parameter_and_by_netlink(tmp_path: Path) -> None:
    path = "/sys/module/ib_core/parameters/netns_mode"
    assert read_netns_shared(make_tree(tmp_path / "a", {path: "Y"})) is True
    assert read_netns_shared(make_tree(tmp_path / "b", {path: "N"})) is False
    assert read_netns_shared(make_tree(tmp_path / "c", {})) is None
    # `rdma system set netns exclusive` and the answer to `rdma system` of iproute2 6.1: header of 16 bytes left out
    assert netns_mode(False) == bytes.fromhex("0500420000000000")
    answer = bytes.fromhex("0500420001000000")
    assert parse_netns_shared((Message(SYS_GET, 2, 1, answer),)) is True
    assert parse_netns_shared((Message(SYS_GET, 2, 1, attribute(93, b"\1") + netns_mode(False)),)) is False
    assert parse_netns_shared(()) is None


@given(some.binary(max_size=64))
def test_any_answer_is_decoded_or_refused(body: bytes) -> None:
    with suppress(ValueError):
        assert parse_netns_shared((Message(SYS_GET, 0, 1, body),)) in (True, False, None)


# NCCL.


def chosen(device: str, index: int, port: RdmaPort = PORT) -> Port:
    return Port(device, port, GidChoice("ens1", Gid(index, IPv6Address("::ffff:10.0.0.1"), ROCE_V2, "ens1"), "why"))


MARKED = replace(PORT, roce_tos=106, traffic_class=None)
PATH = ("pci0000:00", "0000:00:01.0", "0000:01:00.0")
WIRED = NodeState(
    pci={
        one.address: one
        for one in (
            PciFunction("0000:03:00.0", "10de", "2330", "030200", path=(*PATH, "0000:02:00.0", "0000:03:00.0")),
            PciFunction("0000:04:00.0", "15b3", "1021", "020000", path=(*PATH, "0000:02:01.0", "0000:04:00.0")),
        )
    },
    netdevs={"eno1": Netdev("eno1", 1500, up=True, uses=("default route",))},
)


def test_settings_follow_from_ports_gids_marking_and_wiring() -> None:
    found = nccl_settings((chosen("mlx5_0", 3, MARKED), chosen("mlx5_1", 3, MARKED)), WIRED)
    assert {one.name: one.value for one in found.settings} == {
        "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1",
        "NCCL_IB_ROCE_VERSION_NUM": "2",
        "NCCL_IB_ADDR_FAMILY": "AF_INET",
        "NCCL_IB_GID_INDEX": "3",
        "NCCL_IB_TC": "106",
        "NCCL_NET_GDR_LEVEL": "PXB",
        "NCCL_SOCKET_IFNAME": "=eno1",
    }
    assert found.remarks == ()
    exported = [line for line in shell_lines(found) if not line.startswith("#")]
    assert exported[0] == "export NCCL_IB_HCA='=mlx5_0:1,mlx5_1:1'"
    assert [shlex.split(line)[1] for line in exported] == list(conf_lines(found))


def test_one_index_for_all_ports_is_given_only_where_they_agree() -> None:
    found = nccl_settings((chosen("mlx5_0", 3), chosen("mlx5_1", 5)), WIRED)
    names = [one.name for one in found.settings]
    assert "NCCL_IB_GID_INDEX" not in names
    assert "NCCL_IB_ADDR_FAMILY" in names
    assert any(line.endswith("they differ (mlx5_0: 3, mlx5_1: 5)") for line in found.remarks)
    assert "NCCL_IB_TC is left out: no type of service is set; see section roce of the node file" in found.remarks


def test_ports_that_cannot_be_used_are_left_out_and_named() -> None:
    none = Port("mlx5_2", PORT, GidChoice("ens3", None, "ens3 has no IPv4 address"))
    infiniband = Port("mlx5_3", replace(PORT, link_layer="InfiniBand"))
    down = chosen("mlx5_4", 3, replace(PORT, state="DOWN"))
    found = nccl_settings((chosen("mlx5_0", 3), none, infiniband, down), NodeState())
    assert found.settings[0].value == "=mlx5_0:1"
    assert found.remarks[:3] == (
        "mlx5_2:1 is left out: ens3 has no IPv4 address",
        "mlx5_3:1 is left out: it is InfiniBand, mlx5_0 is not",
        "mlx5_4:1 is left out: its port is DOWN",
    )
    nothing = nccl_settings((down,), NodeState())
    assert nothing.settings == ()
    assert nothing.remarks[-1] == "no port can be used, so that NCCL would fall back to TCP"


def test_infiniband_needs_neither_gid_nor_traffic_class() -> None:
    found = nccl_settings((Port("mlx5_3", replace(PORT, link_layer="InfiniBand")),), NodeState())
    assert [one.name for one in found.settings] == ["NCCL_IB_HCA"]
