"""The files of other device plugins for NICs, read as they are: pools of RDMA devices and of network functions.

Sources: Mellanox/k8s-rdma-shared-dev-plugin pkg/types/types.go and README.md (config.json);
k8snetworkplumbingwg/sriov-network-device-plugin pkg/types/types.go, README.md and docs (resourceList; selectors may be
a mapping or a list of them; isRdma and needVhostNet stood beside the selectors before they stood in them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from nodeagent.errors import SpecError, SpecProblem
from nodeagent.spec.document import Items, Node, Pairs, Text, compose
from nodeagent.spec.foreign import ForeignReader, Table, pci_addresses, pci_id
from nodeagent.spec.names import pci_address
from nodeagent.state.functions import Asked

SHARED_PREFIX = "rdma"
MOST_SHARES = 10_000  # the kubelet keeps each of them in memory and in its checkpoint
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_RANGES = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
_SHARED_SELECTORS = ("vendors", "deviceIDs", "drivers", "ifNames", "linkTypes")
_SHARED = ("resourceName", "resourcePrefix", "rdmaHcaMax", "devices", "selectors")
_FUNCTIONS = ("resourceName", "resourcePrefix", "deviceType", "excludeTopology", "selectors", "additionalInfo")
_SWITCHES = ("isRdma", "needVhostNet")
_LISTS = ("vendors", "devices", "drivers", "pciAddresses", "pfNames", "nicNames", "rootDevices", "linkTypes")
NOT_OFFERED = ("ddpProfiles",)
_PARTITION_KEY = re.compile(r"0x0*([0-9a-fA-F]{1,4})")
_SUB_FUNCTION = "sf"


class PoolKind(StrEnum):
    """What a pool is made of: network functions, processing accelerators, or parts of a function."""

    NETWORK = "netDevice"
    ACCELERATOR = "accelerator"
    AUXILIARY = "auxNetDevice"


class VdpaType(StrEnum):
    """How a vDPA device is used: by a program through its node, or as an interface of this kernel."""

    VHOST = "vhost"
    VIRTIO = "virtio"

    @property
    def driver(self) -> str:
        """As sysfs names it (drivers/vhost/vdpa.c, drivers/virtio/virtio_vdpa.c)."""
        return f"{self.value}_vdpa"


_COMMON = ("vendors", "devices", "drivers", "acpiIndexes")
_SELECTORS: Mapping[PoolKind, tuple[str, ...]] = {
    PoolKind.NETWORK: (*_LISTS, *_SWITCHES, "acpiIndexes", "pKeys", "vdpaType", *NOT_OFFERED),
    PoolKind.ACCELERATOR: (*_COMMON, "pciAddresses"),
    PoolKind.AUXILIARY: (*_COMMON, "auxTypes", "pfNames", "rootDevices", "linkTypes", *_SWITCHES),
}


@dataclass(frozen=True)
class Parent:
    """A physical function by its interface or address; `indices` of its virtual functions, None for all of them."""

    name: str
    indices: frozenset[int] | None = None


@dataclass(frozen=True)
class Selector:
    """Which functions: within a list one must hold, and every list that is not empty; ids are lower-case hex."""

    vendors: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    link_types: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()
    roots: tuple[Parent, ...] = ()
    acpi_indexes: tuple[str, ...] = ()
    partition_keys: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    vdpa: VdpaType | None = None
    is_rdma: bool = False


@dataclass(frozen=True)
class SharedPool:
    """RDMA devices that all pods share: `shares` pods at most get all of them."""

    resource: str
    shares: int
    selector: Selector


@dataclass(frozen=True)
class FunctionPool:
    """Network functions, each for one pod. `unsupported` are keys without which it cannot be offered as meant, each
    with its place in the file.
    """

    resource: str
    selectors: tuple[Selector, ...]
    with_topology: bool = True
    needs_vhost: bool = False
    info: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    unsupported: tuple[str, ...] = ()
    kind: PoolKind = PoolKind.NETWORK

    @property
    def asked(self) -> frozenset[Asked]:
        """What must be known of functions beyond what is always read."""
        by_kind = {PoolKind.ACCELERATOR: Asked.ACCELERATORS, PoolKind.AUXILIARY: Asked.AUXILIARY}
        wanted = {by_kind[self.kind]} if self.kind in by_kind else set()
        for one in self.selectors:
            wanted |= {Asked.ACPI_INDEXES} if one.acpi_indexes else set()
            wanted |= {Asked.PARTITION_KEYS} if one.partition_keys else set()
            wanted |= {Asked.VDPA} if one.vdpa else set()
        return frozenset(wanted)


def parse_shared(text: str, file: str) -> tuple[SharedPool, ...]:
    """The pools of the RDMA shared device plugin's config.json. SpecError with every mistake in it."""
    reader, root = _opened(text, file)
    top = reader.table(root, "", ("periodicUpdateInterval", "configList"))
    top.number("periodicUpdateInterval", 0, 10**9 - 1)
    if "configList" not in top:
        top.wrong("configList", "key configList is missing; expected a list of resources")
    pools = [_shared_pool(table) for table in top.tables("configList", _SHARED)]
    _finish(reader, top, "configList", [pool.resource for pool in pools])
    return tuple(pools)


def _shared_pool(table: Table) -> SharedPool:
    shares = table.number("rdmaHcaMax", 0, MOST_SHARES)
    if "rdmaHcaMax" not in table:
        table.wrong("rdmaHcaMax", "key rdmaHcaMax is missing")
    selectors = table.table("selectors", _SHARED_SELECTORS)
    selector = Selector(
        vendors=_ids(selectors, "vendors"),
        devices=_ids(selectors, "deviceIDs"),
        drivers=tuple(selectors.texts("drivers")),
        interfaces=(*selectors.texts("ifNames"), *table.texts("devices")),
        link_types=tuple(selectors.texts("linkTypes")),
        is_rdma=True,
    )
    return SharedPool(_resource(table, SHARED_PREFIX), shares or 0, selector)


def parse_functions(text: str, file: str, prefix: str) -> tuple[FunctionPool, ...]:
    """The pools of the SR-IOV network device plugin's file; `prefix` is for those without one. SpecError."""
    reader, root = _opened(text, file)
    top = reader.table(root, "", ("resourceList",))
    if "resourceList" not in top:
        top.wrong("resourceList", "key resourceList is missing; expected a list of resources")
    pools = [_function_pool(table, prefix) for table in top.tables("resourceList", (*_FUNCTIONS, *_SWITCHES))]
    _finish(reader, top, "resourceList", [pool.resource for pool in pools])
    return tuple(pools)


def _function_pool(table: Table, prefix: str) -> FunctionPool:
    said = table.text("deviceType", (*(one.value for one in PoolKind), "")) or PoolKind.NETWORK
    kind = PoolKind(said)
    tables = list(_selector_tables(table, kind))
    above = bool(table.flag("isRdma"))
    vhost = [bool(one.flag("needVhostNet")) for one in (table, *tables)]
    if kind is PoolKind.AUXILIARY and not tables:
        table.wrong("selectors", 'expected auxTypes: ["sf"] in the selectors of an auxNetDevice')
    return FunctionPool(
        resource=_resource(table, prefix),
        selectors=tuple(_selector(one, above, kind) for one in tables) or (Selector(is_rdma=above),),
        with_topology=not table.flag("excludeTopology"),
        needs_vhost=any(vhost),
        info=_info(table),
        unsupported=tuple(one.where(name) for one in tables for name in NOT_OFFERED if _is_set(one, name)),
        kind=kind,
    )


def _is_set(table: Table, name: str) -> bool:
    """Whether a key says something: an empty list or text narrows nothing."""
    if name not in table:
        return False
    node = table.values[name][1]
    return not (isinstance(node, Items) and not node.items) and not (isinstance(node, Text) and not node.text)


def _selector_tables(table: Table, kind: PoolKind) -> Iterator[Table]:
    known = _SELECTORS[kind]
    node = table.values["selectors"][1] if "selectors" in table else None
    if isinstance(node, Items):
        yield from table.tables("selectors", known)
    elif node is not None:
        yield table.table("selectors", known)


def _selector(table: Table, above: bool, kind: PoolKind) -> Selector:
    selector = Selector(
        vendors=_ids(table, "vendors"),
        devices=_ids(table, "devices"),
        drivers=tuple(table.texts("drivers")),
        addresses=tuple(pci_addresses(table, "pciAddresses")),
        interfaces=tuple(table.texts("nicNames")),
        link_types=tuple(table.texts("linkTypes")),
        parents=tuple(_parents(table, "pfNames")),
        roots=tuple(_roots(table)),
        acpi_indexes=tuple(table.texts("acpiIndexes")),
        partition_keys=tuple(_partition_keys(table)),
        kinds=tuple(table.texts("auxTypes")),
        vdpa=_vdpa(table),
        is_rdma=bool(table.flag("isRdma")) or above,
    )
    if kind is PoolKind.AUXILIARY and set(selector.kinds) != {_SUB_FUNCTION}:
        table.wrong("auxTypes", f"expected [{_SUB_FUNCTION}], found {', '.join(selector.kinds) or 'nothing'}")
    if selector.vdpa and selector.is_rdma:
        table.wrong("vdpaType", "vdpaType and isRdma exclude each other; expected one of them")
    return selector


def _vdpa(table: Table) -> VdpaType | None:
    found = table.text("vdpaType", (*(one.value for one in VdpaType), ""))
    return VdpaType(found) if found else None


def _partition_keys(table: Table) -> Iterator[int]:
    for text in table.texts("pKeys"):
        match = _PARTITION_KEY.fullmatch(text)
        if match is None:
            table.wrong("pKeys", f"expected a partition key such as 0x7fff, found {text}")
        else:
            yield int(match[1], 16)


def _info(table: Table) -> Mapping[str, Mapping[str, str]]:
    """`additionalInfo`: texts by PCI address, or by * for all."""
    by_address = table.table("additionalInfo", ())
    found = {name: by_address.table(name, ()) for name in by_address.values}
    return MappingProxyType(
        {name: MappingProxyType({key: one.text(key) or "" for key in one.values}) for name, one in found.items()}
    )


def _resource(table: Table, usual: str) -> str:
    name, prefix = table.text("resourceName"), table.text("resourcePrefix") or usual
    if name is None:
        table.wrong("resourceName", "key resourceName is missing")
    elif not _NAME.fullmatch(name):
        table.wrong("resourceName", f"expected letters, digits, - _ and ., at most 63, found {name or 'nothing'}")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", prefix):
        table.wrong("resourcePrefix", f"expected a domain such as nvidia.com, found {prefix}")
    return f"{prefix}/{name or ''}"


def _ids(table: Table, name: str) -> tuple[str, ...]:
    return tuple(filter(None, (pci_id(table, name, text) for text in table.texts(name))))


def _parents(table: Table, name: str) -> Iterator[Parent]:
    """`enp97s0np0`, `enp97s0np0#0,2-7,9`."""
    for text in table.texts(name):
        parent, mark, ranges = text.partition("#")
        if parent and (not mark or _RANGES.fullmatch(ranges)):
            yield Parent(parent, _indices(ranges) if mark else None)
        else:
            table.wrong(name, f"expected NAME or NAME#0,2-7 with numbers of virtual functions, found {text}")


def _roots(table: Table) -> Iterator[Parent]:
    for parent in _parents(table, "rootDevices"):
        address = pci_address(parent.name)
        if address is None:
            table.wrong("rootDevices", f"expected a PCI address such as 0000:03:00.0#0-3, found {parent.name}")
        else:
            yield Parent(address, parent.indices)


def _indices(ranges: str) -> frozenset[int]:
    pairs = (part.partition("-") for part in ranges.split(","))
    return frozenset(number for low, _, high in pairs for number in range(int(low), int(high or low) + 1))


def _opened(text: str, file: str) -> tuple[ForeignReader, Node]:
    root = compose(text, file)
    if not isinstance(root, Pairs):
        raise SpecError((SpecProblem(file, 1, 1, "", "expected a mapping, as in the plugin's config.json"),))
    return ForeignReader(file), root


def _finish(reader: ForeignReader, top: Table, name: str, resources: Iterable[str]) -> None:
    seen: set[str] = set()
    for resource in resources:
        if resource in seen:
            top.wrong(name, f"{resource} is there twice; expected each resource once")
        seen.add(resource)
    reader.finished({})
