"""Facts that only pools of network functions ask for, read when one does: each is a look at every function.

Sources: Documentation/ABI/testing/sysfs-bus-pci (acpi_index), sysfs-class-infiniband (pkeys), sysfs-bus-vdpa,
drivers/vhost/vdpa.c (vhost-vdpa-N below the vDPA device), drivers/net/ethernet/mellanox/mlx5/core/sf/dev/dev.c (sfnum);
k8snetworkplumbingwg/sriovnet sriovnet.go and sriovnet_aux.go (partition key 0 of port 1, names of auxiliary devices).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from nodeagent.host import paths
from nodeagent.host.pci_facts import PCI_ADDRESS, parse_id, parse_path, read_function
from nodeagent.host.ports import Files
from nodeagent.state.functions import UIO_DRIVERS, Asked, AuxiliaryDevice, FunctionFacts, VdpaDevice
from nodeagent.state.network import PciFunction

ACCELERATOR_CLASS = "12"  # pci.ids: processing accelerators
_AUXILIARY = re.compile(r"[^.\s]+\.([^.\s]+)\.\d+")  # DRIVER.KIND.ID
_PARTITION_KEY = re.compile(r"0x[0-9a-f]{1,4}")
_VHOST = "vhost-vdpa-"


def read_function_facts(files: Files, asked: Iterable[Asked], pci: Mapping[str, PciFunction]) -> FunctionFacts:
    """What is asked for and nothing else, and nodes of uio where a function has such a driver; `pci` are the functions
    that are known already.
    """
    wanted = frozenset(asked)
    accelerators = _accelerators(files) if Asked.ACCELERATORS in wanted else {}
    known = {**pci, **accelerators}
    return FunctionFacts(
        acpi_indexes=_acpi_indexes(files, known) if Asked.ACPI_INDEXES in wanted else MappingProxyType({}),
        partition_keys=_partition_keys(files) if Asked.PARTITION_KEYS in wanted else MappingProxyType({}),
        vdpa=_vdpa(files) if Asked.VDPA in wanted else MappingProxyType({}),
        auxiliary=_auxiliary(files) if Asked.AUXILIARY in wanted else MappingProxyType({}),
        accelerators=MappingProxyType(accelerators),
        uio=_uio(files, (one.address for one in known.values() if one.driver in UIO_DRIVERS)),
    )


def _acpi_indexes(files: Files, addresses: Iterable[str]) -> Mapping[str, str]:
    """The number that firmware gives an onboard device; others have no such file."""
    found = {one: files.read_optional(f"{paths.SYS_PCI_DEVICES}/{one}/acpi_index") for one in addresses}
    return MappingProxyType({address: text.strip() for address, text in found.items() if text and text.strip()})


def _partition_keys(files: Files) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for name in files.names(paths.SYS_CLASS_INFINIBAND):
        folder = f"{paths.SYS_CLASS_INFINIBAND}/{name}"
        address = files.target(f"{folder}/device") or ""
        text = (files.read_optional(f"{folder}/ports/1/pkeys/0") or "").strip().lower()
        if PCI_ADDRESS.fullmatch(address) and _PARTITION_KEY.fullmatch(text):
            found[address] = int(text, 16)
    return MappingProxyType(found)


def _vdpa(files: Files) -> Mapping[str, VdpaDevice]:
    """The first device of each function that a management device has made there; those of its parts are not its own."""
    found: dict[str, VdpaDevice] = {}
    for name in sorted(files.names(paths.SYS_VDPA_DEVICES), key=lambda one: (len(one), one)):
        folder = f"{paths.SYS_VDPA_DEVICES}/{name}"
        parent = (files.link(folder) or "").rpartition("/")[0].rpartition("/")[2]
        if PCI_ADDRESS.fullmatch(parent):
            device = VdpaDevice(name, files.target(f"{folder}/driver") or "", _vhost_node(files, folder))
            found.setdefault(parent, device)
    return MappingProxyType(found)


def _vhost_node(files: Files, folder: str) -> str:
    nodes = (f"{paths.DEV}/{name}" for name in files.names(folder) if name.startswith(_VHOST))
    return next((node for node in nodes if files.device_node(node) is not None), "")


def _auxiliary(files: Files) -> Mapping[str, AuxiliaryDevice]:
    names = files.names(paths.SYS_AUXILIARY_DEVICES)
    found = (_part(files, name, match[1]) for name in names if (match := _AUXILIARY.fullmatch(name)))
    return MappingProxyType({one.name: one for one in found if one is not None})


def _part(files: Files, name: str, kind: str) -> AuxiliaryDevice | None:
    folder = f"{paths.SYS_AUXILIARY_DEVICES}/{name}"
    path = parse_path(files.link(folder) or "")
    if not path or not PCI_ADDRESS.fullmatch(path[-1]):
        return None
    number = (files.read_optional(f"{folder}/sfnum") or "").strip()
    return AuxiliaryDevice(
        name=name,
        parent=path[-1],
        kind=kind,
        number=int(number) if number.isdecimal() else -1,
        driver=files.target(f"{folder}/driver") or "",
        netdev=next(iter(files.names(f"{folder}/net")), ""),
        rdma=next(iter(files.names(f"{folder}/infiniband")), ""),
    )


def _uio(files: Files, addresses: Iterable[str]) -> Mapping[str, str]:
    """By the directory that a uio driver makes below the function; only nodes that are there."""
    found = {one: next(iter(files.names(f"{paths.SYS_PCI_DEVICES}/{one}/uio")), "") for one in addresses}
    nodes = {address: f"{paths.DEV}/{name}" for address, name in found.items() if name}
    return MappingProxyType({one: node for one, node in nodes.items() if files.device_node(node) is not None})


def _accelerators(files: Files) -> dict[str, PciFunction]:
    return {one.address: one for one in _of_class(files, ACCELERATOR_CLASS)}


def _of_class(files: Files, class_code: str) -> Iterator[PciFunction]:
    for address in files.names(paths.SYS_PCI_DEVICES):
        if parse_id(files.read_optional(f"{paths.SYS_PCI_DEVICES}/{address}/class")).startswith(class_code):
            yield read_function(files, address)
