"""The files of other device plugins for NICs, read as they are: pools of RDMA devices and of network functions.

Sources: Mellanox/k8s-rdma-shared-dev-plugin pkg/types/types.go and README.md (config.json);
k8snetworkplumbingwg/sriov-network-device-plugin pkg/types/types.go, README.md and docs (resourceList; selectors may be
a mapping or a list of them; isRdma and needVhostNet stood beside the selectors before they stood in them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nodeagent.errors import SpecError, SpecProblem
from nodeagent.spec.document import Items, Node, Pairs, Text, compose
from nodeagent.spec.foreign import ForeignReader, Table, pci_addresses, pci_id
from nodeagent.spec.names import pci_address

SHARED_PREFIX = "rdma"
MOST_SHARES = 10_000  # the kubelet keeps each of them in memory and in its checkpoint
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_RANGES = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
_SHARED_SELECTORS = ("vendors", "deviceIDs", "drivers", "ifNames", "linkTypes")
_SHARED = ("resourceName", "resourcePrefix", "rdmaHcaMax", "devices", "selectors")
_FUNCTIONS = ("resourceName", "resourcePrefix", "deviceType", "excludeTopology", "selectors", "additionalInfo")
_SWITCHES = ("isRdma", "needVhostNet")
_LISTS = ("vendors", "devices", "drivers", "pciAddresses", "pfNames", "nicNames", "rootDevices", "linkTypes")
NOT_OFFERED = ("acpiIndexes", "pKeys", "ddpProfiles", "vdpaType")


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
    is_rdma: bool = False


@dataclass(frozen=True)
class SharedPool:
    """RDMA devices that all pods share: `shares` pods at most get all of them."""

    resource: str
    shares: int
    selector: Selector


@dataclass(frozen=True)
class FunctionPool:
    """Network functions, each for one pod. `unsupported` names keys without which it cannot be offered as meant."""

    resource: str
    selectors: tuple[Selector, ...]
    with_topology: bool = True
    needs_vhost: bool = False
    info: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    unsupported: tuple[str, ...] = ()


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
    kind = table.text("deviceType", ("netDevice", "accelerator", "auxNetDevice", "")) or "netDevice"
    tables = list(_selector_tables(table))
    above = bool(table.flag("isRdma"))
    vhost = [bool(one.flag("needVhostNet")) for one in (table, *tables)]
    missing = [name for one in tables for name in NOT_OFFERED if _is_set(one, name)]
    return FunctionPool(
        resource=_resource(table, prefix),
        selectors=tuple(_selector(one, above) for one in tables) or (Selector(is_rdma=above),),
        with_topology=not table.flag("excludeTopology"),
        needs_vhost=any(vhost),
        info=_info(table),
        unsupported=tuple(dict.fromkeys(([] if kind == "netDevice" else [f"deviceType {kind}"]) + missing)),
    )


def _is_set(table: Table, name: str) -> bool:
    """Whether a key says something: an empty list or text narrows nothing."""
    if name not in table:
        return False
    node = table.values[name][1]
    return not (isinstance(node, Items) and not node.items) and not (isinstance(node, Text) and not node.text)


def _selector_tables(table: Table) -> Iterator[Table]:
    known = (*_LISTS, *_SWITCHES, *NOT_OFFERED)
    node = table.values["selectors"][1] if "selectors" in table else None
    if isinstance(node, Items):
        yield from table.tables("selectors", known)
    elif node is not None:
        yield table.table("selectors", known)


def _selector(table: Table, above: bool) -> Selector:
    return Selector(
        vendors=_ids(table, "vendors"),
        devices=_ids(table, "devices"),
        drivers=tuple(table.texts("drivers")),
        addresses=tuple(pci_addresses(table, "pciAddresses")),
        interfaces=tuple(table.texts("nicNames")),
        link_types=tuple(table.texts("linkTypes")),
        parents=tuple(_parents(table, "pfNames")),
        roots=tuple(_roots(table)),
        is_rdma=bool(table.flag("isRdma")) or above,
    )


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
