"""The PCIe ports between root buses and GPUs or NICs: links, payload sizes, ACS, IOMMU; read on demand, not each pass.

Source: Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nodeagent.errors import HostError
from nodeagent.host.paths import SYS_IOMMU_GROUPS, SYS_PCI_DEVICES
from nodeagent.host.pci_config import CONFIG_BYTES, is_silent, parse_config
from nodeagent.host.ports import Files
from nodeagent.state.network import PciFunction
from nodeagent.state.topology import PcieLink, PcieNode, Topology

SPEED = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?) GT/s")


def read_topology(files: Files, functions: Iterable[PciFunction]) -> Topology:
    """Every function given and every bridge above one of them; nothing is written."""
    addresses = sorted({address for function in functions for address in (*function.path[1:], function.address)})
    return Topology({address: _read_node(files, address) for address in addresses})


def _read_node(files: Files, address: str) -> PcieNode:
    directory = f"{SYS_PCI_DEVICES}/{address}"
    group = files.target(f"{directory}/iommu_group")
    space = _read_space(files, directory)
    return PcieNode(
        address=address,
        link=read_link(files, address),
        config=parse_config(space),
        iommu_type=(files.read_optional(f"{SYS_IOMMU_GROUPS}/{group}/type") or "").strip() if group else "",
        silent=is_silent(space),
    )


def read_link(files: Files, address: str) -> PcieLink:
    """What the link of a function was trained to, and what it can."""
    directory = f"{SYS_PCI_DEVICES}/{address}"
    return PcieLink(
        speed_gts=parse_speed(files.read_optional(f"{directory}/current_link_speed")),
        width=parse_width(files.read_optional(f"{directory}/current_link_width")),
        max_speed_gts=parse_speed(files.read_optional(f"{directory}/max_link_speed")),
        max_width=parse_width(files.read_optional(f"{directory}/max_link_width")),
    )


def is_gone(files: Files, address: str) -> bool:
    """Whether a function that sysfs still shows does not answer: its configuration space reads as all ones."""
    try:
        return is_silent(files.read_bytes(f"{SYS_PCI_DEVICES}/{address}/config", 4))
    except HostError:
        return False  # it left sysfs, or we may not look; the bus says the rest


def _read_space(files: Files, directory: str) -> bytes:
    try:
        return files.read_bytes(f"{directory}/config", CONFIG_BYTES)
    except HostError:  # a function that is going, or a container without the right: a topology without it is still one
        return b""


def parse_speed(text: str | None) -> float:
    """`16.0 GT/s PCIe` -> 16.0; 0.0 for `Unknown` and for nothing."""
    found = SPEED.match(text or "")
    return float(found[1]) if found else 0.0


def parse_width(text: str | None) -> int:
    """Lanes; 0 for nothing, and for the 255 that the kernel shows for a link that it cannot read."""
    number = int(text) if text and text.strip().isdecimal() else 0
    return number if 0 < number <= 64 else 0
