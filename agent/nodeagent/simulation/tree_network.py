"""Network interfaces and RDMA devices as sysfs shows them; pure.

Sources: Documentation/ABI/testing/sysfs-class-net, Documentation/ABI/stable/sysfs-class-infiniband; RoCE's active MTU
and the order of GIDs by linux include/rdma/ib_addr.h and drivers/infiniband/core/roce_gid_mgmt.c.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation import congestion, tree_roce
from nodeagent.simulation.function_parts import interface_folder
from nodeagent.simulation.kernel_state import Interface
from nodeagent.simulation.profiles import CARDS
from nodeagent.simulation.reactions import mac_of, rdma_slots
from nodeagent.simulation.tree_entry import Entries, Entry, Tree, line, link
from nodeagent.simulation.tree_pci import device_folder
from nodeagent.simulation.virtual_functions import slot_at
from nodeagent.state.processes import DeviceNode

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile, Slot

LOOPBACK = Interface("lo", "", mac="00:00:00:00:00:00", mtu=65536, max_mtu=0, up=True, addresses=("127.0.0.1/8",))
COUNTERS = (
    # name, folder below the port, growth per second while the port is active
    ("port_xmit_data", "counters", 250_000_000),
    ("port_rcv_data", "counters", 250_000_000),
    ("port_xmit_packets", "counters", 250_000),
    ("port_rcv_packets", "counters", 250_000),
    ("symbol_error", "counters", 0),
    ("link_downed", "counters", 0),
    ("port_rcv_errors", "counters", 0),
    ("port_xmit_wait", "counters", 11),
    ("np_cnp_sent", "hw_counters", 3),
    ("rp_cnp_handled", "hw_counters", 3),
    ("out_of_sequence", "hw_counters", 0),
    ("packet_seq_err", "hw_counters", 0),
    ("local_ack_timeout_err", "hw_counters", 0),
)
_ZERO_GID = "0000:0000:0000:0000:0000:0000:0000:0000"
_GIDS = 16
_DEFAULT_KEY = 0xFFFF  # full member of the default partition
_RATES = {
    25_000: "25 Gb/sec (1X EDR)",
    400_000: "400 Gb/sec (4X NDR)",
    200_000: "200 Gb/sec (4X HDR)",
    100_000: "100 Gb/sec (4X EDR)",
}


def render(profile: Profile, state: KernelState) -> Tree:
    tree: Tree = {}
    for interface in (LOOPBACK, *state.interfaces.values()):
        slot = slot_at(state, profile, interface.pci_address)
        device = device_folder(slot) if slot else interface_folder(profile, state, interface.name)
        tree.update(_interface(slot, device, interface))
    for number, slot in enumerate(rdma_slots(state, profile)):
        tree.update(_rdma(state, slot, number))
    tree.update(tree_roce.entries(state, profile))
    tree.update(congestion.entries(state, profile))
    if any(region.name == "rdma_cm" for region in state.regions):
        path = f"{paths.DEV_INFINIBAND}/rdma_cm"
        tree[path] = Entry(node=DeviceNode(path, 10, 122, 0o666))
    return tree


def _interface(slot: Slot | None, device: str, interface: Interface) -> Entries:
    """`device` is the folder of what it belongs to, "" for a software device."""
    parent = device or f"{paths.SYS_DEVICES}/virtual"
    folder = f"{parent}/net/{interface.name}"
    place = f"{paths.SYS_CLASS_NET}/{interface.name}"
    yield place, link(place, folder)
    running = interface.up and interface.carrier
    speed = CARDS[slot.card].speed_mbps if slot else 0
    loopback = interface.name == LOOPBACK.name
    for name, text in (
        ("mtu", interface.mtu),
        ("flags", f"0x{(0x8 if loopback else 0x1002) + interface.up + (0x40 if running else 0):x}"),
        ("operstate", "unknown" if loopback or not device else "up" if running else "down"),
        ("address", interface.mac or "02:00:00:00:00:01"),
        ("type", 772 if loopback else 32 if interface.driver == "ib_ipoib" else 1),
        ("tx_queue_len", interface.settings.get("device.tx_queue_length", 1000)),
        ("ifindex", 1 if loopback else 2 + sum(interface.name.encode()) % 4000),
    ):
        yield f"{folder}/{name}", line(text)
    # The kernel answers EINVAL for these two while the interface is down; an empty file stands for that.
    yield f"{folder}/carrier", line(int(interface.carrier)) if interface.up else Entry()
    yield f"{folder}/speed", line(speed) if running and speed else Entry()
    if device:
        yield f"{folder}/device", link(f"{folder}/device", device)


def _rdma(state: KernelState, slot: Slot, number: int) -> Entries:
    folder = f"{device_folder(slot)}/infiniband/{slot.rdma}"
    place = f"{paths.SYS_CLASS_INFINIBAND}/{slot.rdma}"
    card = CARDS[slot.card]
    yield place, link(place, folder)
    yield f"{folder}/device", link(f"{folder}/device", device_folder(slot))
    for name, text in (
        ("node_guid", guid_of(slot)),
        ("sys_image_guid", guid_of(slot)),
        ("node_type", "1: CA"),
        ("fw_ver", card.firmware),
        ("node_desc", f"simulated {slot.rdma}"),
        ("board_id", "MT_0000000223"),
        ("hca_type", f"MT{int(card.device, 16)}"),
    ):
        yield f"{folder}/{name}", line(text)
    yield from _port(state, slot, f"{folder}/ports/1")
    yield from _nodes(state, number, slot.rdma)


def port_is_active(state: KernelState, slot: Slot) -> bool:
    """An Ethernet port follows its interface; an InfiniBand port is up when its subnet manager says so."""
    if slot.link_layer == "InfiniBand":
        return True
    interface = _interface_of(state, slot)
    return interface is not None and interface.up and interface.carrier


def _interface_of(state: KernelState, slot: Slot) -> Interface | None:
    """By PCI address: it may have been renamed."""
    found = state.interfaces.get(slot.netdev)
    if found is not None and found.pci_address == slot.pci_address:
        return found
    return next((one for one in state.interfaces.values() if one.pci_address == slot.pci_address), None)


def _port(state: KernelState, slot: Slot, folder: str) -> Entries:
    active = port_is_active(state, slot)
    ethernet = slot.link_layer == "Ethernet"
    for name, text in (
        ("state", "4: ACTIVE" if active else "1: DOWN"),
        ("phys_state", "5: LinkUp" if active else "3: Disabled"),
        ("link_layer", slot.link_layer),
        ("rate", _RATES[state.port_rates.get(slot.rdma, CARDS[slot.card].speed_mbps)]),
        ("lid", "0x0" if ethernet else f"0x{int(slot.pci_address[5:7], 16):x}"),
        ("sm_lid", "0x0" if ethernet else "0x1"),
    ):
        yield f"{folder}/{name}", line(text)
    gids = _gids(state, slot)
    interface = _interface_of(state, slot)
    netdev = interface.name if interface else slot.netdev
    for index in range(_GIDS):
        gid, kind = gids[index] if index < len(gids) else (_ZERO_GID, "")
        yield f"{folder}/gids/{index}", line(gid)
        yield f"{folder}/gid_attrs/types/{index}", line(kind) if kind else Entry()
        yield f"{folder}/gid_attrs/ndevs/{index}", line(netdev) if kind and ethernet else Entry()
    for name, kind, _ in COUNTERS:
        yield f"{folder}/{kind}/{name}", line(0)
    yield f"{folder}/pkeys/0", line(f"0x{state.partition_keys.get(slot.rdma, _DEFAULT_KEY):04x}")


def _gids(state: KernelState, slot: Slot) -> tuple[tuple[str, str], ...]:
    """(GID, type) in mlx5's order: link-local as RoCE v1 and v2, then a pair for each address."""
    if slot.link_layer == "InfiniBand":
        return ((_grouped("fe80" + "0" * 12 + guid_of(slot).replace(":", "")), "IB/RoCE v1"),)
    interface = _interface_of(state, slot)
    if interface is None:
        return ()
    first, second = mac_of(slot).replace(":", "")[:6], mac_of(slot).replace(":", "")[6:]
    identifier = f"{int(first[:2], 16) ^ 2:02x}{first[2:]}fffe{second}"
    addresses = () if slot.rdma in state.lost_gids else interface.addresses
    values = ["fe80" + "0" * 12 + identifier, *(_mapped(text) for text in addresses)]
    return tuple((_grouped(value), kind) for value in values for kind in ("IB/RoCE v1", "RoCE v2"))


def _mapped(address: str) -> str:
    found = ipaddress.ip_interface(address).ip
    return f"{int(found):032x}" if found.version == 6 else "0" * 20 + "ffff" + f"{int(found):08x}"


def _grouped(digits: str) -> str:
    return ":".join(digits[start : start + 4] for start in range(0, 32, 4))


def guid_of(slot: Slot) -> str:
    """Node GUID from the MAC address, as Mellanox assigns it: the two halves around 0300."""
    digits = mac_of(slot).replace(":", "")
    text = digits[:6] + "0300" + digits[6:]
    return ":".join(text[start : start + 4] for start in range(0, 16, 4))


def _nodes(state: KernelState, number: int, rdma: str) -> Entries:
    """/dev/infiniband and the classes that map its nodes to devices, as far as the modules for them are there."""
    for module, name, minor in (
        ("ib_umad", f"umad{number}", number),
        ("ib_umad", f"issm{number}", 64 + number),
        ("ib_uverbs", f"uverbs{number}", 192 + number),
    ):
        if module in state.modules:
            path = f"{paths.DEV_INFINIBAND}/{name}"
            yield path, Entry(node=DeviceNode(path, 231, minor, 0o666 if module == "ib_uverbs" else 0o600))
            kind = "infiniband_verbs" if module == "ib_uverbs" else "infiniband_mad"
            for attribute, text in (("ibdev", rdma), ("dev", f"231:{minor}")):
                yield f"{paths.SYS}/class/{kind}/{name}/{attribute}", line(text)
