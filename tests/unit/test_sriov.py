"""Virtual functions: the codec on what iproute2 sends, plans of the section `sriov`, steps through the journal."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.host import vf_codec
from nodeagent.host.netlink_codec import attribute, attributes, nest, text
from nodeagent.plan.journal import Entry, Phase, decode, encode
from nodeagent.resources.base import Step
from nodeagent.resources.link_restore import KeepSetup, RestoreLink
from nodeagent.resources.qos_steps import SetEts
from nodeagent.resources.sriov import plan
from nodeagent.resources.sriov_steps import BindFunction, MakeVfs, RemoveVfs, SetVf
from nodeagent.spec.schema import NodeSpec
from nodeagent.spec.sriov import SriovEntry, VfDriver
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import Netdev, PciFunction, VfLinkState, VfSetting, VirtualFunction
from nodeagent.state.node import NodeState
from nodeagent.state.things import module, netdev, pci

# IFLA_VFINFO_LIST as `ip link set lo vf 1 ...` of iproute2 6.1 sends it, by strace.
SENT = {
    (VfSetting.MAC, ("02:00:00:00:00:07",)): "300016002c0001002800010001000000020000000007" + 26 * "00",
    (VfSetting.VLAN, (5, 3)): "180016001400010010000200010000000500000003000000",
    (VfSetting.SPOOFCHK, (1,)): "14001600100001000c0004000100000001000000",
    (VfSetting.TRUST, (1,)): "14001600100001000c0009000100000001000000",
    (VfSetting.LINK_STATE, ("disable",)): "14001600100001000c0005000100000002000000",
    (VfSetting.RATE, (10, 2000)): "180016001400010010000600010000000a000000d0070000",
    (VfSetting.NODE_GUID, ("02:00:00:00:00:00:3b:01",)): "1c0016001800010014000a000100000000000000013b000000000002",
    (VfSetting.PORT_GUID, ("02:00:00:00:00:00:3b:02",)): "1c0016001800010014000b000100000000000000023b000000000002",
}
PF, VF0, VF1 = "0000:3b:00.0", "0000:3b:01.0", "0000:3b:01.1"


def _payload(data: bytes) -> bytes:
    """The innermost payload of nested attributes, which some senders mark as nested and some do not."""
    ((_, info),) = attributes(data)
    ((_, setting),) = attributes(info)
    return setting


@pytest.mark.parametrize(("setting", "value"), SENT)
def test_a_setting_is_sent_as_iproute2_sends_it(setting: VfSetting, value: tuple[int | str, ...]) -> None:
    body = vf_codec.encode_set("lo", 1, setting, value)
    parts = dict(attributes(body[16:]))
    assert parts[vf_codec.IFLA_IFNAME] == b"lo\0"
    ours = attribute(vf_codec.IFLA_VFINFO_LIST, parts[vf_codec.IFLA_VFINFO_LIST])
    assert _payload(ours) == _payload(bytes.fromhex(SENT[setting, value]))


def test_what_was_sent_is_what_is_read() -> None:
    """The kernel answers with the structures it takes, all of a function in one IFLA_VF_INFO."""
    settings = b"".join(_payload(bytes.fromhex(data)) for data in SENT.values())
    body = bytes(16) + attribute(3, text("ens1")) + nest(vf_codec.IFLA_VFINFO_LIST, nest(1, settings))
    (found,) = vf_codec.decode_get(body)
    assert {(setting, value) for setting, value in SENT} == {(one, found.value(one)) for one in VfSetting}
    unknown = attribute(4, struct.pack("=II", 1, 0xFFFFFFFF)) + attribute(9, struct.pack("=II", 1, 0xFFFFFFFF))
    vlan = attribute(2, struct.pack("=III", 1, 0, 0))
    body = bytes(16) + nest(vf_codec.IFLA_VFINFO_LIST, nest(1, vlan + unknown))
    (found,) = vf_codec.decode_get(body)
    assert (found.index, found.spoofchk, found.trust, found.link_state) == (1, None, None, None)
    assert found.value(VfSetting.TRUST) is None


@given(st.binary(max_size=120))
def test_no_bytes_break_the_reader_in_another_way(data: bytes) -> None:
    for body in (data, bytes(16) + nest(22, nest(1, data)), bytes(16) + nest(22, data)):
        with suppress(ValueError):
            vf_codec.decode_get(body)


def _function(address: str, **fields: object) -> PciFunction:
    return PciFunction(address, "15b3", "1021", "020000", **fields)


def _state(*vfs: VirtualFunction, driver: str = "mlx5_core", group: str = "7", loaded: bool = True) -> NodeState:
    addresses = (VF0, VF1)[: len(vfs)]
    virtual = [_function(one, driver=driver, physfn=PF, is_vf=True, iommu_group=group) for one in addresses]
    physical = _function(PF, driver="mlx5_core", total_vfs=8, vf_addresses=addresses)
    names = ("mlx5_core", "vfio_pci") if loaded else ("mlx5_core",)
    return NodeState(
        pci={one.address: one for one in (physical, *virtual)},
        netdevs={"ens1": Netdev("ens1", 1500, True, pci_address=PF, driver="mlx5_core", vfs=vfs)},
        modules={name: KernelModule(name, Liveness.LIVE) for name in names},
    )


def _texts(entry: SriovEntry, state: NodeState) -> list[str]:
    wish = plan(NodeSpec(version=1, sriov=(entry,)), state)
    assert wish.obstacles == ()
    return [str(step) for step in wish.steps]


def _problem(entry: SriovEntry, state: NodeState) -> str:
    wish = plan(NodeSpec(version=1, sriov=(entry,)), state)
    assert wish.steps == ()
    (obstacle,) = wish.obstacles
    return obstacle.problem


FRESH = (VirtualFunction(0, trust=False), VirtualFunction(1, trust=False))


def test_from_one_number_to_another_through_zero_with_everything_quiet() -> None:
    wish = plan(NodeSpec(version=1, sriov=(SriovEntry("ens1", 4),)), _state(*FRESH))
    gone, made = wish.steps
    assert isinstance(gone, RemoveVfs)
    assert isinstance(made, MakeVfs)
    assert gone.claims == gone.gone == (pci(VF0), pci(VF1)) == made.back
    assert gone.undo() == MakeVfs(subject=pci(PF), unit=f"sriov/{PF}", reason="undo", count=2)
    assert _texts(SriovEntry("ens1", 2), _state(*FRESH)) == []


def test_only_what_differs_is_set_and_functions_of_another_nic_are_not_found_through_theirs() -> None:
    state = _state(VirtualFunction(0, trust=True, vlan=5), VirtualFunction(1, trust=False))
    steps = _texts(SriovEntry(PF, 2, trust=True, vlan=5), state)
    assert steps == [f"set vlan of {VF1} to 5 0", f"set trust of {VF1} to 1"]
    assert _problem(SriovEntry(VF0, 2), state) == "no physical function matches"


def test_what_cannot_become_steps() -> None:
    assert _problem(SriovEntry("ens1", 9), _state()) == "it can have 8 virtual functions, 9 are wanted"
    vfio = SriovEntry("ens1", 2, driver=VfDriver.VFIO_PCI)
    assert _problem(vfio, _state(*FRESH, loaded=False)) == "module vfio_pci is not loaded"
    assert _problem(vfio, _state(*FRESH, group="")) == f"virtual function {VF0} is in no IOMMU group"
    twice = NodeSpec(version=1, sriov=(SriovEntry("ens1", 2), SriovEntry(PF, 4)))
    (obstacle,) = plan(twice, _state(*FRESH)).obstacles
    assert obstacle.problem == f"`ens1` and `{PF}` both match it"


def test_the_steps_survive_the_journal() -> None:
    common = {"unit": "u", "reason": "r"}
    vf = {"netdev": "ens1", "index": 1, "setting": VfSetting.LINK_STATE}
    steps: tuple[Step, ...] = (
        MakeVfs(subject=pci(PF), count=2, bind=False, known=(VF0,), **common),
        RemoveVfs(subject=pci(PF), count=2, addresses=(VF0, VF1), **common),
        SetVf(subject=pci(VF1), wanted=(VfLinkState.ENABLE.value,), before=("auto",), **vf, **common),
        BindFunction(subject=pci(VF0), driver="vfio-pci", before="", **common),
        SetEts(subject=netdev("ens1"), wanted=((1, 2), (3,), (4,)), before=(), **common),
        KeepSetup(subject=netdev("ens1"), **common),
        RestoreLink(
            subject=netdev("ens1"), mtu=9000, up=True, entries=(("a", "b"),), needs=(module("mlx5_core"),), **common
        ),
    )
    entries = tuple(Entry(Phase.RESTORE, step) for step in steps)
    assert decode(encode(entries, "boot")) == entries
