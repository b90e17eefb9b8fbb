"""PCI functions that matter here: GPUs, NVSwitches and network controllers.

Source: Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from nodeagent.host.paths import SYS_CLASS_VFIO, SYS_IOMMU_GROUPS, SYS_PCI_DEVICES
from nodeagent.host.ports import Files
from nodeagent.state.network import PciFunction

VENDORS = frozenset({"10de", "15b3"})  # NVIDIA, Mellanox (pci.ids)
# Base classes of network (with InfiniBand, 0207) and display controllers; 0680 is "other bridge", which NVSwitch uses.
CLASSES = ("02", "03", "0680")
NO_OVERRIDE = "(null)"
ROOT_BUS = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}")
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def read_pci(files: Files) -> Mapping[str, PciFunction]:
    """The functions by address; those of other kinds are left out, so that a pass stays cheap."""
    found = (_read_function(files, address) for address in files.names(SYS_PCI_DEVICES))
    return MappingProxyType({function.address: function for function in found if function is not None})


def is_relevant(vendor: str, class_code: str) -> bool:
    """Whether a function is one the agent deals with; ids are lower-case hex without prefix."""
    return vendor in VENDORS or class_code.startswith(CLASSES)


def parse_id(text: str | None) -> str:
    """`0x10DE` as the kernel writes it -> `10de`."""
    return (text or "").strip().lower().removeprefix("0x")


def _read_function(files: Files, address: str) -> PciFunction | None:
    directory = f"{SYS_PCI_DEVICES}/{address}"
    vendor = parse_id(files.read_optional(f"{directory}/vendor"))
    class_code = parse_id(files.read_optional(f"{directory}/class"))
    if not is_relevant(vendor, class_code):
        return None
    return _described(files, address, vendor, class_code)


def read_groups(files: Files, pci: Mapping[str, PciFunction]) -> Mapping[str, tuple[PciFunction, ...]]:
    """Every function of the IOMMU groups in which those of `pci` are, whatever it is; by group.

    Source: Documentation/ABI/testing/sysfs-kernel-iommu_groups.
    """
    groups = sorted({one.iommu_group for one in pci.values() if one.iommu_group})
    return MappingProxyType({group: tuple(_members(files, group, pci)) for group in groups})


def _members(files: Files, group: str, pci: Mapping[str, PciFunction]) -> Iterator[PciFunction]:
    for address in files.names(f"{SYS_IOMMU_GROUPS}/{group}/devices"):
        yield pci.get(address) or read_function(files, address)


def read_function(files: Files, address: str) -> PciFunction:
    """One function, whatever it is."""
    directory = f"{SYS_PCI_DEVICES}/{address}"
    vendor, class_code = (parse_id(files.read_optional(f"{directory}/{name}")) for name in ("vendor", "class"))
    return _described(files, address, vendor, class_code)


def _described(files: Files, address: str, vendor: str, class_code: str) -> PciFunction:
    directory = f"{SYS_PCI_DEVICES}/{address}"
    override = (files.read_optional(f"{directory}/driver_override") or "").strip()
    physfn = files.target(f"{directory}/physfn") or ""
    driver = files.target(f"{directory}/driver") or ""
    group = files.target(f"{directory}/iommu_group") or ""
    return PciFunction(
        address=address,
        vendor=vendor,
        device=parse_id(files.read_optional(f"{directory}/device")),
        class_code=class_code,
        driver=driver,
        driver_override="" if override == NO_OVERRIDE else override,
        numa_node=parse_numa_node(files.read_optional(f"{directory}/numa_node")),
        iommu_group=group,
        path=parse_path(files.link(directory) or ""),
        is_vf=physfn != "",
        vfio_minor=_vfio_minor(files, group) if driver.endswith(("vfio-pci", "vfio_pci")) else -1,
        physfn=physfn,
        total_vfs=parse_count(files.read_optional(f"{directory}/sriov_totalvfs")) if not physfn else 0,
        vf_addresses=_vf_addresses(files, directory) if not physfn else (),
    )


def _vfio_minor(files: Files, group: str) -> int:
    """Minor of the group's device; its major is that of `vfio` in /proc/devices."""
    number = files.read_optional(f"{SYS_CLASS_VFIO}/{group}/dev") or ""
    return parse_count(number.partition(":")[2]) if group else -1


def _vf_addresses(files: Files, directory: str) -> tuple[str, ...]:
    """Targets of virtfn0, virtfn1 ...; they are there once the function is, unlike the number in sriov_numvfs."""
    if not parse_count(files.read_optional(f"{directory}/sriov_numvfs")):
        return ()
    names = (name for name in files.names(directory) if name.startswith("virtfn"))
    ordered = sorted(names, key=lambda name: int(name.removeprefix("virtfn")))
    return tuple(filter(None, (files.target(f"{directory}/{name}") for name in ordered)))


def parse_count(text: str | None) -> int:
    """A number, 0 where there is none."""
    return int(text) if text is not None and text.isdecimal() else 0


def parse_path(target: str) -> tuple[str, ...]:
    """`../../../devices/pci0000:00/0000:00:01.1/0000:01:00.0` -> root bus, bridges, function.

    Empty where the link does not lead through a PCI root bus.
    """
    parts = target.split("/")
    root = next((index for index, part in enumerate(parts) if ROOT_BUS.fullmatch(part)), len(parts))
    return tuple(part for part in parts[root:] if ROOT_BUS.fullmatch(part) or PCI_ADDRESS.fullmatch(part))


def parse_numa_node(text: str | None) -> int:
    """The node's number, -1 where firmware does not say."""
    try:
        return int(text or "-1")
    except ValueError:
        return -1
