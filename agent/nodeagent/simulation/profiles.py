"""Real machines as tables: which GPUs and NICs they have, where they sit, and which driver stack comes with them.

Sources: NVIDIA DGX A100 and DGX H100/H200 User Guides (network port tables: PCI addresses, interface and RDMA device
names; `nvidia-smi topo -m` listings: NUMA nodes), pci.ids (vendor and device numbers), linux Documentation/PCI.
The bridges between root bus and device are plausible rather than copied: the guides do not print them, and the DGX B200
is laid out here as the DGX H100.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

RELEASE = "6.1.0-sim"
VERMAGIC = f"{RELEASE} SMP preempt mod_unload modversions "


@dataclass(frozen=True)
class Card:
    """What a kind of PCI function is: ids in lower-case hex, and for NICs what the driver offers."""

    product: str
    vendor: str
    device: str
    class_code: str
    driver: str = ""
    firmware: str = ""
    speed_mbps: int = 0
    total_vfs: int = 0
    max_mtu: int = 9978
    link_gts: float = 16.0
    link_width: int = 16
    vf_card: str = ""


@dataclass(frozen=True)
class Slot:
    """One PCI function of a machine; `bridges` lead from the root bus to it, `rdma` is its RDMA device or empty."""

    pci_address: str
    card: str
    numa_node: int
    bridges: tuple[str, ...]
    netdev: str = ""
    rdma: str = ""
    link_layer: str = "Ethernet"
    physfn: str = ""  # of a virtual function

    @property
    def root_bus(self) -> str:
        return "pci" + (self.bridges[0] if self.bridges else self.pci_address)[:7]


@dataclass(frozen=True)
class Profile:
    """One machine. `peer_memory_owner` is the module that exports ib_register_peer_memory_client, "" if none does."""

    name: str
    product: str
    board: str
    driver_version: str
    gpus: tuple[Slot, ...]
    nics: tuple[Slot, ...]
    switches: tuple[Slot, ...] = ()
    peer_memory_owner: str = ""
    ofed_version: str = ""
    modprobe: Mapping[str, str] = field(default_factory=dict)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (*self.gpus, *self.switches, *self.nics)

    def slot(self, pci_address: str) -> Slot | None:
        return next((slot for slot in self.slots if slot.pci_address == pci_address), None)


_MLX5_VF = "ConnectX-VF"
_FIRST_VF, _VFS_PER_FUNCTION = 8, 64


def vf_address(physfn: str, index: int) -> str:
    """Address of a virtual function: on the bus of its physical function, at an offset as in its SR-IOV capability."""
    devfn = _FIRST_VF + int(physfn[-1]) * _VFS_PER_FUNCTION + index
    return f"{physfn[:8]}{devfn >> 3:02x}.{devfn & 7}"


def _connectx(product: str, device: str, firmware: str, speed_mbps: int, link_gts: float = 16.0) -> Card:
    """A NIC of 16 virtual functions."""
    return Card(
        product, "15b3", device, "020000", "mlx5_core", firmware, speed_mbps, 16, link_gts=link_gts, vf_card=_MLX5_VF
    )


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "A100-SXM4-40GB": Card("NVIDIA A100-SXM4-40GB", "10de", "20b0", "030200", "nvidia"),
        "A100-PCIE-40GB": Card("NVIDIA A100-PCIE-40GB", "10de", "20f1", "030200", "nvidia"),
        "H100-80GB-HBM3": Card("NVIDIA H100 80GB HBM3", "10de", "2330", "030200", "nvidia", link_gts=32.0),
        "H200-141GB": Card("NVIDIA H200", "10de", "2335", "030200", "nvidia", link_gts=32.0),
        "B200-180GB": Card("NVIDIA B200", "10de", "2901", "030200", "nvidia", link_gts=32.0),
        "NVSwitch-A100": Card("NVIDIA NVSwitch", "10de", "1af1", "068000", "nvidia", link_width=2),
        "NVSwitch-H100": Card("NVIDIA NVSwitch", "10de", "22a3", "068000", "nvidia", link_width=2),
        "ConnectX-6": _connectx("ConnectX-6 VPI", "101b", "20.35.2000", 200_000),
        "ConnectX-6-Dx": _connectx("ConnectX-6 Dx", "101d", "22.35.2000", 100_000),
        "ConnectX-7": _connectx("ConnectX-7 VPI", "1021", "28.39.2048", 400_000, link_gts=32.0),
        "BlueField-3": _connectx("BlueField-3 integrated ConnectX-7", "a2dc", "32.43.2024", 400_000, link_gts=32.0),
        "I210": Card("Intel I210", "8086", "1533", "020000", "igb", "3.25", 1000, 0, 9216, 2.5, 1),
        "X550": Card("Intel X550", "8086", "1563", "020000", "ixgbe", "3.60", 10_000, 63, 9710, 8.0, 4, "X550-VF"),
        _MLX5_VF: Card("ConnectX Family mlx5Gen Virtual Function", "15b3", "101e", "020000", "mlx5_core"),
        "GA102-audio": Card("GA102 High Definition Audio Controller", "10de", "1aef", "040300", "snd_hda_intel"),
        "TU102-USB": Card("TU102 USB 3.1 Host Controller", "10de", "1ad6", "0c0330", "xhci_hcd"),
        "X550-VF": Card("Intel X550 Virtual Function", "8086", "1565", "020000", "ixgbevf"),
    },
)

_BLACKLIST_NOUVEAU = MappingProxyType(
    {
        "nvidia-installer-disable-nouveau.conf": "blacklist nouveau\noptions nouveau modeset=0\n",
        "nvidia.conf": "options nvidia NVreg_RestrictProfilingToAdminUsers=1\n",
    },
)


def _behind(root_bus: str, numa_node: int, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """The slots below one PCIe switch: root port 01.1, upstream port on the next bus, one downstream port for each."""
    bus = int(root_bus, 16)
    above = (f"0000:{bus:02x}:01.1", f"0000:{bus + 1:02x}:00.0")
    return tuple(
        Slot(
            slot.pci_address,
            slot.card,
            numa_node,
            (*above, f"0000:{bus + 2:02x}:{port:02x}.0"),
            slot.netdev,
            slot.rdma,
            slot.link_layer,
        )
        for port, slot in enumerate(slots)
    )


def _gpu(card: str, bus: str) -> Slot:
    return Slot(f"0000:{bus}:00.0", card, -1, ())


def _nic(card: str, bus: str, rdma: int) -> Slot:
    return Slot(f"0000:{bus}:00.0", card, -1, (), f"enp{int(bus, 16)}s0np0", f"mlx5_{rdma}")


def _split(slots: tuple[Slot, ...], card_prefix: str) -> tuple[Slot, ...]:
    return tuple(slot for slot in slots if slot.card.startswith(card_prefix))


def _on_root_port(address: str, card: str, numa_node: int, names: tuple[str, str], layer: str = "Ethernet") -> Slot:
    """A function directly below a root port of the bus group it lies in."""
    root = int(address[5:7], 16) & 0xF0
    return Slot(address, card, numa_node, (f"0000:{root:02x}:03.1",), names[0], names[1], layer)


def _dgx_a100() -> Profile:
    gpu, nic = "A100-SXM4-40GB", "ConnectX-6"
    islands = (
        *_behind("00", 3, (_gpu(gpu, "07"), _gpu(gpu, "0f"), _nic(nic, "0c", 0), _nic(nic, "12", 1))),
        *_behind("40", 1, (_gpu(gpu, "47"), _gpu(gpu, "4e"), _nic(nic, "4b", 2), _nic(nic, "54", 3))),
        *_behind("80", 7, (_gpu(gpu, "87"), _gpu(gpu, "90"), _nic(nic, "8d", 6), _nic(nic, "94", 7))),
        *_behind("b0", 5, (_gpu(gpu, "b7"), _gpu(gpu, "bd"), _nic(nic, "ba", 8), _nic(nic, "cc", 9))),
    )
    return Profile(
        name="dgx-a100",
        product="NVIDIA DGX A100",
        board=gpu,
        driver_version="550.90.07",
        gpus=_split(islands, gpu),
        nics=(
            *_split(islands, nic),
            _on_root_port("0000:61:00.0", nic, 0, ("enp97s0f0np0", "mlx5_4")),
            _on_root_port("0000:61:00.1", nic, 0, ("enp97s0f1np1", "mlx5_5")),
            _on_root_port("0000:e1:00.0", nic, 4, ("enp225s0f0np0", "mlx5_10")),
            _on_root_port("0000:e1:00.1", nic, 4, ("enp225s0f1np1", "mlx5_11")),
            _on_root_port("0000:e2:00.0", "I210", 4, ("enp226s0", "")),
        ),
        switches=tuple(_on_root_port(f"0000:{bus}:00.0", "NVSwitch-A100", 5, ("", "")) for bus in _buses("c4", 6)),
        peer_memory_owner="ib_core",
        ofed_version="5.8-2.0.3",
        modprobe=_BLACKLIST_NOUVEAU,
    )


def _buses(first: str, count: int) -> tuple[str, ...]:
    return tuple(f"{int(first, 16) + step:02x}" for step in range(count))


_H100_PAIRS = (
    # root bus, NUMA node, GPU bus, NIC bus, number of the RDMA device
    ("15", 0, "1b", "18", 0),
    ("37", 0, "43", "40", 3),
    ("48", 0, "52", "4f", 4),
    ("59", 0, "61", "5e", 5),
    ("97", 1, "9d", "9a", 6),
    ("b7", 1, "c3", "c0", 9),
    ("c7", 1, "d1", "ce", 10),
    ("d7", 1, "df", "dc", 11),
)


def _rails(gpu: str, nic: str) -> tuple[Slot, ...]:
    """Eight GPUs, each behind one switch with its own NIC: DGX H100, H200 and B200 share the board layout."""
    return tuple(
        slot
        for root, numa, gpu_bus, nic_bus, rdma in _H100_PAIRS
        for slot in _behind(root, numa, (_gpu(gpu, gpu_bus), _nic(nic, nic_bus, rdma)))
    )


def _storage_nics(nic: str) -> tuple[Slot, ...]:
    """The two dual-port cards for storage and management, one port of each InfiniBand, and the host's own port."""
    return (
        _on_root_port("0000:29:00.0", nic, 0, ("ibp41s0f0", "mlx5_1"), "InfiniBand"),
        _on_root_port("0000:29:00.1", nic, 0, ("enp41s0f1np1", "mlx5_2")),
        _on_root_port("0000:aa:00.0", nic, 1, ("ibp170s0f0", "mlx5_7"), "InfiniBand"),
        _on_root_port("0000:aa:00.1", nic, 1, ("enp170s0f1np1", "mlx5_8")),
        _on_root_port("0000:0b:00.0", "X550", 0, ("eno3", "")),
    )


def _dgx_hopper(name: str, product: str, gpu: str, driver_version: str) -> Profile:
    nic = "ConnectX-7"
    islands = _rails(gpu, nic)
    return Profile(
        name=name,
        product=product,
        board=gpu,
        driver_version=driver_version,
        gpus=_split(islands, gpu),
        nics=(*_split(islands, nic), *_storage_nics(nic)),
        switches=tuple(_on_root_port(f"0000:{bus}:00.0", "NVSwitch-H100", 0, ("", "")) for bus in _buses("05", 4)),
        peer_memory_owner="ib_uverbs",
        ofed_version="24.10-1.1.4",
        modprobe=_BLACKLIST_NOUVEAU,
    )


def _dgx_b200() -> Profile:
    """Its NVSwitches are reached through ConnectX functions and are no PCI devices of the nvidia driver."""
    gpu, nic = "B200-180GB", "ConnectX-7"
    islands = _rails(gpu, nic)
    return Profile(
        name="dgx-b200",
        product="NVIDIA DGX B200",
        board=gpu,
        driver_version="570.133.20",
        gpus=_split(islands, gpu),
        nics=(*_split(islands, nic), *_storage_nics("BlueField-3")),
        peer_memory_owner="ib_uverbs",
        ofed_version="24.10-1.1.4",
        modprobe=_BLACKLIST_NOUVEAU,
    )


def _small_server() -> Profile:
    gpu, nic = "A100-PCIE-40GB", "ConnectX-6-Dx"
    return Profile(
        name="gpu-server-4x-a100",
        product="two-socket server with four A100 PCIe",
        board=gpu,
        driver_version="535.183.06",
        gpus=tuple(
            _on_root_port(f"0000:{bus}:00.0", gpu, numa, ("", ""))
            for bus, numa in (("21", 0), ("41", 0), ("a1", 1), ("c1", 1))
        ),
        nics=(
            _on_root_port("0000:61:00.0", nic, 0, ("enp97s0np0", "mlx5_0")),
            _on_root_port("0000:e1:00.0", nic, 1, ("enp225s0np0", "mlx5_1")),
            _on_root_port("0000:04:00.0", "I210", 0, ("eno1", "")),
        ),
    )


def profiles() -> Mapping[str, Profile]:
    """Every profile by name."""
    found = (
        _dgx_a100(),
        _dgx_hopper("dgx-h100", "NVIDIA DGX H100", "H100-80GB-HBM3", "550.127.08"),
        _dgx_hopper("dgx-h200", "NVIDIA DGX H200", "H200-141GB", "550.127.08"),
        _dgx_b200(),
        _small_server(),
    )
    return {profile.name: profile for profile in found}


def profile(name: str) -> Profile:
    """The profile of this name. UsageError naming those there are."""
    known = profiles()
    if name not in known:
        raise UsageError(f"simulate {name}: unknown profile; known are {', '.join(known)}")
    return known[name]
