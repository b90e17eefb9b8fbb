"""Planning of section `pcie`: what is wished of NICs and bridges, and what speaks against it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nodeagent.errors import GoneError, UnsupportedError
from nodeagent.host.pci_config import locate, parse_config
from nodeagent.host.pcie_control import write_setting
from nodeagent.host.topology_facts import read_topology
from nodeagent.resources.base import Wish
from nodeagent.resources.pcie import SetPcie, plan
from nodeagent.simulation.pci_config_space import DOWNSTREAM, ENDPOINT, Space, config_space
from nodeagent.spec.pcie import Pcie
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.topology import ACS_REDIRECT_BITS, PcieConfig, PcieNode, PcieSetting, PortKind
from trees import make_tree

ROOT = ("pci0000:00", "0000:00:01.0", "0000:01:00.0")
GPU = PciFunction("0000:03:00.0", "10de", "2330", "030200", numa_node=0, path=(*ROOT, "0000:02:00.0", "0000:03:00.0"))
NIC = PciFunction("0000:05:00.0", "15b3", "1021", "020000", numa_node=0, path=(*ROOT, "0000:02:02.0", "0000:05:00.0"))
END = PcieConfig(PortKind.ENDPOINT, 256, 512, 512, relaxed_ordering=False)
PORT = PcieConfig(PortKind.DOWNSTREAM, 256, 512, 512, relaxed_ordering=True, acs=0x1D, acs_capable=0x5F)
OFF = Pcie(acs_redirect=False)


def state(*more: PciFunction, nodes: dict[str, PcieConfig | None] | None = None, iommu: str = "identity") -> NodeState:
    configs: dict[str, PcieConfig | None] = {
        "0000:00:01.0": replace(PORT, kind=PortKind.ROOT_PORT, ids="8086:352a"),
        "0000:02:00.0": PORT,
        "0000:02:02.0": PORT,
        NIC.address: END,
        **(nodes or {}),
    }
    found = {address: PcieNode(address, config=config, iommu_type=iommu) for address, config in configs.items()}
    return NodeState(pci={one.address: one for one in (GPU, NIC, *more)}, pcie=found)


def wish(pcie: Pcie, node: NodeState) -> Wish:
    return plan(NodeSpec(version=1, pcie=pcie), node)


def test_only_what_differs_is_set() -> None:
    steps = [str(step) for step in wish(Pcie(max_read_request=4096, relaxed_ordering=False), state()).steps]
    assert steps == ["set max read request of 0000:05:00.0 to 4096 (is 512)"]
    assert wish(Pcie(), state()) == Wish()
    assert plan(NodeSpec(version=1), state()) == Wish()


def test_a_space_that_cannot_be_read_is_an_obstacle() -> None:
    (obstacle,) = wish(Pcie(max_read_request=4096), state(nodes={NIC.address: None})).obstacles
    assert obstacle.problem == "its configuration space cannot be read"


def test_a_function_that_fell_off_the_bus_is_an_obstacle_that_says_so() -> None:
    gone = {NIC.address: PcieNode(NIC.address, silent=True)}
    (obstacle,) = wish(Pcie(max_read_request=4096, relaxed_ordering=True), replace(state(), pcie=gone)).obstacles
    assert str(obstacle.problem) == "it does not answer: its configuration space reads as all ones"
    assert obstacle.advice.startswith("it fell off the bus")


def test_a_function_that_does_not_answer_is_not_written_to(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {f"sys/bus/pci/devices/{NIC.address}/config": ""})
    path = tmp_path / f"sys/bus/pci/devices/{NIC.address}/config"
    path.write_bytes(b"\xff" * 4096)
    with pytest.raises(GoneError, match=r"set max read request of .*: it does not answer"):
        write_setting(files, NIC.address, PcieSetting.MAX_READ_REQUEST, 4096)
    assert path.read_bytes() == b"\xff" * 4096
    (node,) = read_topology(files, (replace(NIC, path=()),)).nodes.values()
    assert (node.config, node.silent) == (None, True)


@pytest.mark.parametrize("ids", ["8086:6f02", "8086:2f08", "1022:1a01"])
def test_relaxed_ordering_stays_off_below_root_ports_that_get_it_wrong(ids: str) -> None:
    bad = state(nodes={"0000:00:01.0": replace(PORT, kind=PortKind.ROOT_PORT, ids=ids)})
    found = wish(Pcie(relaxed_ordering=True), bad)
    assert (len(found.steps), [one.problem for one in found.obstacles]) == (
        0,
        ["root port 0000:00:01.0 above it gets relaxed ordering wrong"],
    )
    assert len(wish(Pcie(relaxed_ordering=True), state()).steps) == 1


def test_redirect_goes_from_the_bridges_below_the_nearest_common_one_and_comes_back() -> None:
    steps = wish(OFF, state()).steps
    assert [str(step) for step in steps] == [
        "set acs redirect of 0000:02:00.0 to 0x0 (is 0x1c)",
        "set acs redirect of 0000:02:02.0 to 0x0 (is 0x1c)",
    ]
    assert str(steps[0].undo()) == "set acs redirect of 0000:02:00.0 to 0x1c (is 0x0)"
    clear = replace(PORT, acs=0x1)
    back = wish(Pcie(acs_redirect=True), state(nodes={"0000:02:00.0": clear, "0000:02:02.0": clear}))
    assert [step.wanted for step in back.steps if isinstance(step, SetPcie)] == [0x1C, 0x1C]


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (
            state(PciFunction("0000:09:00.1", "15b3", "101e", "020000", driver="vfio-pci", is_vf=True)),
            "functions go to virtual machines (0000:09:00.1)",
        ),
        (
            state(PciFunction("0000:09:00.1", "8086", "1533", "020000", driver_override="vfio-pci")),
            "functions go to virtual machines (0000:09:00.1)",
        ),
        (
            replace(state(), modules={"nvidia_vgpu_vfio": KernelModule("nvidia_vgpu_vfio", Liveness.LIVE)}),
            "module nvidia_vgpu_vfio gives GPUs",
        ),
        (
            state(PciFunction("0000:08:00.0", "15b3", "2100", "088000")),
            "NICs with a data-direct function (0000:08:00.0)",
        ),
        (state(iommu="DMA-FQ"), "the IOMMU translates the DMA of 0000:05:00.0; boot with iommu=pt first"),
    ],
)
def test_what_speaks_against_traffic_that_no_iommu_sees(node: NodeState, reason: str) -> None:
    found = wish(OFF, node)
    assert found.steps == ()
    assert [reason in one.problem for one in found.obstacles] == [True]
    quiet = {"0000:02:00.0": replace(PORT, acs=0), "0000:02:02.0": replace(PORT, acs=0x1)}
    pcie = {**node.pcie, **{address: PcieNode(address, config=config) for address, config in quiet.items()}}
    assert wish(OFF, replace(node, pcie=pcie)) == Wish()


VALUES = some.one_of(
    some.tuples(some.just(PcieSetting.MAX_READ_REQUEST), some.sampled_from([128 << n for n in range(6)])),
    some.tuples(some.just(PcieSetting.RELAXED_ORDERING), some.integers(0, 1)),
    some.tuples(some.just(PcieSetting.ACS_REDIRECT), some.integers(0, 7).map(lambda bits: bits << 2)),
)


@given(VALUES, some.binary(min_size=2, max_size=2))
def test_a_setting_comes_back_and_touches_its_own_bits_only(setting: tuple[PcieSetting, int], noise: bytes) -> None:
    data = bytearray(config_space(Space("1000", "c010", "060400", DOWNSTREAM, 512, 256, acs=0x1D)))
    field = locate(bytes(data), setting[0])
    assert field is not None
    data[field.offset : field.offset + 2] = noise
    word = int.from_bytes(noise, "little") & ~field.mask | field.encode(setting[1])
    data[field.offset : field.offset + 2] = word.to_bytes(2, "little")
    config = parse_config(bytes(data))
    assert config is not None
    assert config.value(setting[0]) == setting[1]
    assert word & ~field.mask == int.from_bytes(noise, "little") & ~field.mask
    assert field.mask & ACS_REDIRECT_BITS == field.mask or setting[0] is not PcieSetting.ACS_REDIRECT


def test_the_real_writer_on_a_file_that_takes_everything(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/sys/bus/pci/devices/0000:05:00.0/vendor": "0x15b3"}, {})
    config = tmp_path / "sys/bus/pci/devices/0000:05:00.0/config"
    before = config_space(Space("15b3", "1021", "020000", ENDPOINT, 512))
    config.write_bytes(before)
    write_setting(files, "0000:05:00.0", PcieSetting.MAX_READ_REQUEST, 4096)
    after = config.read_bytes()
    assert after == config_space(Space("15b3", "1021", "020000", ENDPOINT, 4096))
    config.write_bytes(before[:64])
    with pytest.raises(UnsupportedError, match="does not show that register; run as root"):
        write_setting(files, "0000:05:00.0", PcieSetting.MAX_READ_REQUEST, 4096)
