"""Relations between GPUs and NICs, rails, and what is found wrong on the way between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nodeagent.host.pci_config import parse_config
from nodeagent.host.pci_facts import parse_path, read_pci
from nodeagent.host.topology_facts import parse_speed, parse_width, read_topology
from nodeagent.resources.topology import closest_nics, nvlinks_between, rail_of_gpu
from nodeagent.resources.topology_findings import findings, matrix
from nodeagent.simulation.pci_config_space import DOWNSTREAM, ENDPOINT, UPSTREAM, Space, config_space
from nodeagent.state.network import PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.rails import gpus_of, nics_of, rails_of, relation
from nodeagent.state.topology import NvLinks, PcieConfig, PcieLink, PcieNode, PortKind, Relation, Topology
from trees import make_tree

ROOT = ("pci0000:00", "0000:00:01.0", "0000:01:00.0")


def gpu(address: str, *path: str, numa: int = 0) -> PciFunction:
    return PciFunction(address, "10de", "2330", "030200", numa_node=numa, path=(*path, address))


def nic(address: str, *path: str, numa: int = 0) -> PciFunction:
    return PciFunction(address, "15b3", "1021", "020000", numa_node=numa, path=(*path, address))


def state(*functions: PciFunction, rdma: tuple[RdmaDevice, ...] = ()) -> NodeState:
    return NodeState(pci={one.address: one for one in functions}, rdma={one.name: one for one in rdma})


SOLO = ("pci0000:20", "0000:20:01.0", "0000:20:02.0")
DUO = ("pci0000:40", "0000:40:01.0", "0000:40:02.0")
GPU0 = gpu("0000:03:00.0", *ROOT, "0000:02:00.0")
GPU1 = gpu("0000:04:00.0", *ROOT, "0000:02:01.0")
NIC0 = nic("0000:05:00.0", *ROOT, "0000:02:02.0")
NIC1 = nic("0000:06:00.0", *ROOT, "0000:02:03.0")
DEEP = nic("0000:09:00.0", *ROOT, "0000:02:04.0", "0000:07:00.0", "0000:08:00.0")
ON_CPU = nic("0000:61:00.0", "pci0000:00", "0000:00:03.0")
OTHER_BUS = nic("0000:a1:00.0", "pci0000:a0", "0000:a0:01.0")
OTHER_NODE = nic("0000:c1:00.0", "pci0000:c0", "0000:c0:01.0", numa=1)
LOST = nic("0000:e1:00.0", "pci0000:e0", "0000:e0:01.0", numa=-1)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (GPU0, Relation.SELF),
        (NIC0, Relation.PIX),
        (DEEP, Relation.PXB),
        (ON_CPU, Relation.PHB),
        (OTHER_BUS, Relation.NODE),
        (OTHER_NODE, Relation.SYS),
        (LOST, Relation.UNKNOWN),
    ],
)
def test_relation_by_the_nearest_common_port(other: PciFunction, expected: Relation) -> None:
    assert relation(GPU0, other) is relation(other, GPU0) is expected


def test_two_functions_of_one_card_below_a_root_port_are_one_bridge_apart() -> None:
    ports = [nic(f"0000:61:00.{number}", "pci0000:60", "0000:60:03.1") for number in (0, 1)]
    assert relation(*ports) is Relation.PIX


def test_a_path_that_is_not_known_claims_nothing() -> None:
    assert relation(replace(GPU0, path=(), numa_node=-1), NIC0) is Relation.UNKNOWN


def test_nvlinks_are_counted_directly_or_through_switches() -> None:
    bridged = {"a": NvLinks("a", (("b", 4),)), "b": NvLinks("b", (("a", 4),)), "c": NvLinks("c")}
    assert [nvlinks_between(*pair, bridged) for pair in (("a", "b"), ("b", "a"), ("a", "c"), ("a", "a"))] == [
        4,
        4,
        0,
        0,
    ]
    switched = {"a": NvLinks("a", to_switch=18), "b": NvLinks("b", to_switch=17)}
    assert nvlinks_between("a", "b", switched) == nvlinks_between("b", "a", switched) == 17
    assert nvlinks_between("a", "gone", switched) == 0


PATHS = some.lists(some.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(some.lists(some.tuples(PATHS, some.integers(-1, 1)), min_size=2, max_size=5))
def test_the_matrix_is_symmetric_and_only_the_diagonal_is_self(drawn: list[tuple[list[str], int]]) -> None:
    functions = [gpu(f"0000:{index:02x}:00.0", *path, numa=numa) for index, (path, numa) in enumerate(drawn)]
    rows = matrix(functions)
    for one, row in enumerate(rows):
        for other, found in enumerate(row):
            assert found is rows[other][one]
            assert (found is Relation.SELF) == (one == other)


def test_compute_nics_are_those_on_a_switch_with_a_gpu_and_share_out_by_turns() -> None:
    node = state(GPU0, GPU1, NIC1, NIC0, ON_CPU, OTHER_NODE)
    rails = rails_of(node)
    assert [(rail.number, rail.address, rail.relation) for rail in rails] == [
        (0, NIC0.address, Relation.PIX),
        (1, NIC1.address, Relation.PIX),
    ]
    given_out = [rail_of_gpu(one, gpus_of(node), rails) for one in gpus_of(node)]
    assert [rail.number for rail in given_out if rail] == [0, 1]


def test_without_switches_the_nics_of_a_gpus_numa_node_are_the_rails() -> None:
    node = state(gpu("0000:21:00.0", "pci0000:20", "0000:20:01.0"), OTHER_BUS, OTHER_NODE)
    assert [rail.address for rail in rails_of(node)] == [OTHER_BUS.address]


def test_rails_need_no_driver_and_leave_out_virtual_functions_and_plain_nics() -> None:
    plain = replace(NIC1, vendor="8086", device="1533")
    vf = replace(DEEP, is_vf=True)
    assert [found.address for found in nics_of(state(GPU0, NIC0, plain, vf))] == [NIC0.address]
    with_rdma = RdmaDevice("irdma0", "g", plain.address)
    assert len(nics_of(state(GPU0, NIC0, plain, vf, rdma=(with_rdma,)))) == 2
    assert rails_of(state(NIC0)) == ()


def test_rails_on_record_keep_their_numbers_when_a_gpu_or_a_nic_is_gone() -> None:
    near0, near1 = gpu("0000:21:00.0", *SOLO, "0000:21:00.0"), gpu("0000:41:00.0", *DUO, "0000:41:00.0")
    first, second = nic("0000:22:00.0", *SOLO), nic("0000:42:00.0", *DUO)
    whole = state(near0, near1, first, second)
    record = {rail.address: rail.number for rail in rails_of(whole)}
    assert record == {first.address: 0, second.address: 1}

    def numbers(*functions: PciFunction) -> dict[str, int]:
        return {rail.address: rail.number for rail in rails_of(replace(state(*functions), rails=record))}

    assert numbers(near0, near1, first, second) == record
    assert numbers(near1, first, second) == record, "the NIC of a lost GPU is still on its rail"
    assert numbers(first, second) == record
    assert numbers(near0, near1, second) == {second.address: 1}
    orphan = rails_of(replace(state(near1, first, second), rails=record))[0]
    assert orphan.gpus == (), "and is no other GPU's rail"
    assert rail_of_gpu(near1, (near1,), rails_of(replace(state(near1, first, second), rails=record))) is not orphan


def test_a_storage_nic_is_no_rail_because_every_gpu_behind_a_switch_is_gone() -> None:
    """A GPU in a slot of its own is left, and without switches any NIC of its NUMA node would count."""
    slot = gpu("0000:31:00.0", "pci0000:30", "0000:30:01.0")
    first, second = nic("0000:22:00.0", *SOLO), nic("0000:42:00.0", *DUO)
    storage = nic("0000:11:00.0", "pci0000:10", "0000:10:01.0")
    near = gpu("0000:21:00.0", *SOLO, "0000:21:00.0"), gpu("0000:41:00.0", *DUO, "0000:41:00.0")
    whole = rails_of(state(*near, slot, first, second, storage))
    record = {rail.address: rail.number for rail in whole}
    assert record == {first.address: 0, second.address: 1}
    assert all(rail.is_switched for rail in whole)

    left = replace(state(slot, first, second, storage), rails=record, rails_switched=True)
    assert {rail.address: rail.number for rail in rails_of(left)} == record
    moved = replace(state(slot, storage), rails=record, rails_switched=True)
    assert [rail.address for rail in rails_of(moved)] == [storage.address], "nothing of the record is there any more"
    another = nic("0000:23:00.0", *SOLO)
    grown = replace(state(*near, slot, first, second, storage, another), rails=record, rails_switched=True)
    assert [rail.address for rail in rails_of(grown)] == [first.address, another.address, second.address]


def test_a_nic_that_comes_to_a_machine_without_switches_is_counted() -> None:
    one = gpu("0000:21:00.0", "pci0000:20", "0000:20:01.0")
    new = replace(OTHER_BUS, address="0000:a2:00.0")
    node = replace(state(one, OTHER_BUS, new), rails={OTHER_BUS.address: 0})
    assert [rail.address for rail in rails_of(node)] == [OTHER_BUS.address, new.address]


def test_rails_are_counted_anew_when_one_comes_that_is_not_on_record() -> None:
    node = replace(state(GPU0, GPU1, NIC0, NIC1), rails={NIC1.address: 0, "0000:99:00.0": 1})
    assert [(rail.number, rail.address) for rail in rails_of(node)] == [(0, NIC0.address), (1, NIC1.address)]


def test_closest_nics_are_all_that_are_equally_near() -> None:
    assert closest_nics(GPU0, (NIC0, NIC1, DEEP, ON_CPU)) == (NIC0, NIC1)
    assert closest_nics(GPU0, (OTHER_NODE, ON_CPU)) == (ON_CPU,)
    assert closest_nics(GPU0, (LOST,)) == ()


def node_of(function: PciFunction | str, **values: object) -> PcieNode:
    address = function if isinstance(function, str) else function.address
    return replace(PcieNode(address), **values)


GOOD = PcieConfig(PortKind.ENDPOINT, 256, 512, 4096, relaxed_ordering=True)


def texts(node: NodeState, *nodes: PcieNode) -> list[str]:
    return [str(found) for found in findings(node, Topology({one.address: one for one in nodes}))]


def test_a_link_below_its_capability_is_found_on_a_nic_and_a_gpus_idle_speed_is_not() -> None:
    slow = PcieLink(8.0, 8, 16.0, 16)
    found = texts(state(GPU0, NIC0), node_of(GPU0, link=slow), node_of(NIC0, link=slow, config=GOOD))
    assert found == [
        "gpu 0000:03:00.0: its link is x8 of x16; reseat the card or riser; a lane failed in training",
        "nic 0000:05:00.0: its link is x8 of x16; reseat the card or riser; a lane failed in training",
        "nic 0000:05:00.0: its link runs at 8 of 16 GT/s; check firmware set-up, riser and AER counters",
    ]


def test_a_slot_that_has_no_more_is_not_a_fault_of_the_card() -> None:
    above = node_of("0000:02:02.0", link=PcieLink(8.0, 8, 8.0, 8))
    (narrow, slow) = texts(state(GPU0, NIC0), above, node_of(NIC0, link=PcieLink(8.0, 8, 16.0, 16), config=GOOD))
    assert narrow.endswith("the slot has no more lanes")
    assert slow.endswith("the slot is not faster")


def test_acs_redirect_between_gpu_and_nic_names_the_bridge_and_the_boot_parameter() -> None:
    bridge = replace(GOOD, kind=PortKind.DOWNSTREAM, acs=0x1D, acs_capable=0x5F)
    on_path, above = node_of("0000:02:02.0", config=bridge), node_of("0000:00:01.0", config=bridge)
    (found,) = texts(state(GPU0, NIC0), on_path, above, node_of(NIC0, config=GOOD))
    assert found.startswith("bridge 0000:02:02.0: ACS (request redirect, completion redirect, upstream forwarding)")
    assert "pci=disable_acs_redir=0000:02:02.0" in found
    validation_only = replace(bridge, acs=0x1)
    assert texts(state(GPU0, NIC0), node_of("0000:02:02.0", config=validation_only), node_of(NIC0, config=GOOD)) == []


def test_small_reads_strict_ordering_and_a_translating_iommu_are_found() -> None:
    config = replace(GOOD, max_read_request_bytes=512, relaxed_ordering=False, max_payload_bytes=512)
    port = node_of("0000:02:02.0", config=replace(GOOD, kind=PortKind.DOWNSTREAM))
    found = texts(state(GPU0, NIC0), port, node_of(NIC0, config=config, iommu_type="DMA-FQ"))
    assert [line.split(": ", 1)[1].split(";")[0] for line in found] == [
        "MaxPayload is 512 bytes, 256 further up",
        "MaxReadReq is 512 bytes",
        "relaxed ordering is off",
        "the IOMMU translates its DMA (domain type DMA-FQ)",
    ]


def test_relaxed_ordering_below_a_root_port_that_gets_it_wrong_is_found_where_it_is_on() -> None:
    port = node_of("0000:00:01.0", config=replace(GOOD, kind=PortKind.ROOT_PORT, ids="8086:6f02"))
    assert texts(state(NIC0), port, node_of(NIC0, config=replace(GOOD, relaxed_ordering=False))) == []
    (found,) = texts(state(NIC0), port, node_of(NIC0, config=GOOD))
    assert found == (
        "nic 0000:05:00.0: relaxed ordering is on, and root port 0000:00:01.0 above it gets it wrong; "
        "data may arrive late or out of order; set pcie.relaxed_ordering to false"
    )


def test_a_nic_that_does_not_answer_is_no_question_of_rights() -> None:
    found = texts(state(NIC0, NIC1), node_of(NIC0, silent=True))
    assert [line.split(";")[0] for line in found] == [
        "nic 0000:05:00.0: it does not answer: its configuration space reads as all ones",
        "nic 0000:06:00.0: its configuration space cannot be read",
    ]


def test_shared_and_unequal_rails_are_found() -> None:
    ports = [
        RdmaDevice(f"mlx5_{number}", "g", one.address, ports=(RdmaPort(1, "ACTIVE", "Ethernet", rate=rate),))
        for number, (one, rate) in enumerate([(NIC0, "400 Gb/sec (4X NDR)"), (NIC1, "100 Gb/sec (4X EDR)")])
    ]
    nodes = [node_of(one, config=GOOD) for one in (NIC0, NIC1)]
    (unequal,) = texts(state(GPU0, GPU1, NIC0, NIC1, rdma=tuple(ports)), *nodes)
    assert unequal.startswith("rails: they differ (rail 0: Ethernet 400 Gb/sec (4X NDR), rail 1: Ethernet 100 Gb/sec")
    (shared,) = texts(state(GPU0, GPU1, NIC0), *nodes)
    assert shared.startswith("rail 0: 2 GPUs share it (0000:03:00.0, 0000:04:00.0)")


def test_what_could_not_be_read_is_said_once() -> None:
    (found,) = texts(state(GPU0, GPU1, NIC0, NIC1))
    assert found.startswith("nic 0000:05:00.0, 0000:06:00.0: its configuration space cannot be read; run as root")


def test_path_of_a_function_from_its_link() -> None:
    assert parse_path("../../../devices/pci0000:00/0000:00:01.1/0000:01:00.0") == (
        "pci0000:00",
        "0000:00:01.1",
        "0000:01:00.0",
    )
    hyperv = "../../../devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/9a-8c/pci9a8c:00/9a8c:00:02.0"
    assert parse_path(hyperv) == ("pci9a8c:00", "9a8c:00:02.0")
    assert parse_path("") == parse_path("../../../devices/virtual/x") == ()


def test_speeds_and_widths_as_sysfs_writes_them() -> None:
    assert [parse_speed(text) for text in ("16.0 GT/s PCIe", "2.5 GT/s", "Unknown", "", None)] == [16.0, 2.5, 0, 0, 0]
    assert [parse_width(text) for text in ("16", "0", "255", "", None)] == [16, 0, 0, 0, 0]


def test_configuration_space() -> None:
    port = parse_config(config_space(Space("1000", "c010", "060400", DOWNSTREAM, 512, 256, acs=0x1D)))
    assert port == PcieConfig(
        PortKind.DOWNSTREAM, 256, 512, 512, relaxed_ordering=True, acs=0x1D, acs_capable=0x5F, ids="1000:c010"
    )
    end = parse_config(config_space(Space("15b3", "1021", "020000", ENDPOINT)))
    assert end is not None
    assert (end.kind, end.max_read_request_bytes, end.acs) == (PortKind.ENDPOINT, 4096, None)
    upstream = config_space(Space("1000", "c010", "060400", UPSTREAM))
    assert parse_config(upstream[:64]) is None  # what a reader without CAP_SYS_ADMIN gets
    assert parse_config(b"") is None


@given(some.binary(max_size=300), some.integers(0, 255))
def test_any_bytes_are_decoded_or_refused(noise: bytes, first: int) -> None:
    data = bytearray(config_space(Space("15b3", "1021", "020000", ENDPOINT, acs=0)))
    data[0x34] = first
    data[0x40 : 0x40 + len(noise)] = noise
    parse_config(bytes(data))
    parse_config(noise)


def test_reading_a_tree(tmp_path: Path) -> None:
    folder = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
    texts_ = {
        f"{folder}/vendor": "0x15b3",
        f"{folder}/device": "0x1021",
        f"{folder}/class": "0x020000",
        f"{folder}/numa_node": "1",
        f"{folder}/current_link_speed": "16.0 GT/s PCIe",
        f"{folder}/max_link_speed": "32.0 GT/s PCIe",
        f"{folder}/current_link_width": "8",
        f"{folder}/max_link_width": "16",
        "/sys/devices/pci0000:00/0000:00:01.0/vendor": "0x8086",
        "/sys/kernel/iommu_groups/7/type": "identity",
    }
    links = {
        "/sys/bus/pci/devices/0000:01:00.0": f"../../..{folder.removeprefix('/sys')}",
        "/sys/bus/pci/devices/0000:00:01.0": "../../../devices/pci0000:00/0000:00:01.0",
        f"{folder}/iommu_group": "../../../../kernel/iommu_groups/7",
    }
    files = make_tree(tmp_path, texts_, links)
    (tmp_path / folder.lstrip("/") / "config").write_bytes(config_space(Space("15b3", "1021", "020000", ENDPOINT)))
    function = read_pci(files)["0000:01:00.0"]
    assert function.path == ("pci0000:00", "0000:00:01.0", "0000:01:00.0")
    assert (function.iommu_group, function.is_vf) == ("7", False)
    topology = read_topology(files, (function,))
    assert set(topology.nodes) == {"0000:00:01.0", "0000:01:00.0"}
    node = topology.nodes["0000:01:00.0"]
    assert (node.link, node.iommu_type) == (PcieLink(16.0, 8, 32.0, 16), "identity")
    assert node.config is not None
    assert topology.nodes["0000:00:01.0"].config is None
