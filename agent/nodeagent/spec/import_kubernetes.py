"""Node files from what people give the RDMA shared device plugin and the NIC and SR-IOV operators.

Sources: k8s-rdma-shared-dev-plugin pkg/types/types.go and README; nic-configuration-operator api/v1alpha1
(NicConfigurationTemplateSpec); sriov-network-operator api/v1 (SriovNetworkNodePolicySpec).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from nodeagent.spec.document import Node
from nodeagent.spec.foreign import ForeignReader, NodeFile, Table, pci_addresses, pci_id

MELLANOX = "15b3"
_HEAD = ("apiVersion", "kind", "metadata", "spec", "status")
_SELECTORS = ("vendors", "deviceIDs", "drivers", "ifNames", "linkTypes")
_PLUGIN = ("periodicUpdateInterval", "configList")
_RESOURCE = ("resourceName", "resourcePrefix", "rdmaHcaMax", "devices", "selectors")
_CLUSTER = "belongs to the cluster and not to the node"
_FIRMWARE = "is a firmware setting; set it with mlxconfig and reset the card"
_DRIVERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"mlx5_core": ("mlx5_core", "mlx5_ib"), "mlx4_core": ("mlx4_core", "mlx4_ib")}
)


def shared_device_plugin(reader: ForeignReader, root: Node) -> Mapping[str, Any]:
    """config.json: the NICs it hands out are up, their stack is loaded, and RDMA devices are shared as it needs."""
    file = reader.node_file
    top = reader.table(root, "", _PLUGIN)
    top.number("periodicUpdateInterval", 0, 10**9 - 1)
    top.remark("periodicUpdateInterval", "not needed: the agent looks again when something changes")
    if "configList" not in top:
        top.wrong("configList", "key configList is missing; expected a list of resources")
    for resource in top.tables("configList", _RESOURCE):
        for name in ("resourceName", "rdmaHcaMax"):
            if name not in resource:
                resource.wrong(name, f"key {name} is missing")
        resource.text("resourceName")
        resource.text("resourcePrefix")
        resource.number("rdmaHcaMax", 0, 10**9 - 1)
        resource.remark(
            "resourceName", "only the NICs are taken over; kubernetes.network.rdma_config_file offers it to pods"
        )
        for match in dict.fromkeys(_plugin_matches(resource)):
            file.entry("links", match, up=True)
            file.rdma(*drivers_of(match.removeprefix("driver:")) if match.startswith("driver:") else ())
    file.rdma()
    file.document.setdefault("roce", {})["netns"] = "shared"
    return file.document


def _plugin_matches(resource: Table) -> Iterator[str]:
    """The plugin wants all kinds of selectors to agree; the most exact one names the interfaces."""
    selectors = resource.table("selectors", _SELECTORS)
    names = [*_interfaces(selectors, "ifNames"), *_interfaces(resource, "devices")]
    vendors = [pci_id(selectors, "vendors", text) for text in selectors.texts("vendors")]
    devices = [pci_id(selectors, "deviceIDs", text) for text in selectors.texts("deviceIDs")]
    drivers = selectors.texts("drivers")
    exact = names or [f"id:{vendor}:{device}" for vendor in vendors or [MELLANOX] for device in devices if vendor]
    chosen = exact or [f"driver:{driver}" for driver in drivers]
    if not chosen:
        resource.wrong("selectors", "expected ifNames, deviceIDs or drivers, so that interfaces can be named")
    used = "ifNames" if names else "deviceIDs" if devices else "drivers"
    for other in _SELECTORS[1:]:
        if other != used and selectors.texts(other):
            selectors.remark(other, f"not taken over: {used} say which interfaces are meant")
    yield from chosen


_TEMPLATE = (
    "numVfs",
    "linkType",
    "pciPerformanceOptimized",
    "roceOptimized",
    "gpuDirectOptimized",
    "runtimePerformanceOptimized",
    "spectrumXOptimized",
    "networkBay",
    "rawNvConfig",
    "force",
)


def nic_configuration_template(reader: ForeignReader, root: Node) -> Mapping[str, Any]:
    """NicConfigurationTemplate: VFs, read request size, RoCE mode, trust, flow control and marking."""
    file = reader.node_file
    spec = reader.table(root, "", _HEAD).table("spec", ("nodeSelector", "nicSelector", "resetToDefault", "template"))
    spec.remark("nodeSelector", _CLUSTER)
    spec.remark("resetToDefault", _FIRMWARE)
    selector = spec.table("nicSelector", ("nicType", "pciAddresses", "serialNumbers", "partNumbers"))
    template = spec.table("template", _TEMPLATE)
    matches = list(_template_matches(selector))
    number = template.number("numVfs", 0, 4095)
    for match in matches if number is not None else ():
        file.entry("sriov", match, vfs=number)
    _pci(template, file)
    _queues(template, file, matches)
    _roce(template.table("roceOptimized", ("enabled", "roceMode", "qos")), file, matches)
    for name, text in (
        ("linkType", _FIRMWARE),
        ("gpuDirectOptimized", "see pcie.acs_redirect for the way between GPU and NIC; ATS " + _FIRMWARE),
        ("spectrumXOptimized", "has no counterpart"),
        ("networkBay", _FIRMWARE),
        ("rawNvConfig", _FIRMWARE),
        ("force", "has no counterpart: what is right already is never written"),
    ):
        template.remark(name, text)
    file.rdma()
    return file.document


def _template_matches(selector: Table) -> Iterator[str]:
    for name in ("serialNumbers", "partNumbers"):
        selector.remark(name, "not taken over: name the cards by PCI address")
    addresses = list(pci_addresses(selector, "pciAddresses"))
    kind = selector.text("nicType")
    if kind is None:
        selector.wrong("nicType", "key nicType is missing; expected the device id of the NICs such as 101b")
    elif device := pci_id(selector, "nicType", kind):
        yield from addresses or [f"id:{MELLANOX}:{device}"]


def _interfaces(table: Table, name: str) -> Iterator[str]:
    """Names of interfaces, in a policy with the functions that are meant behind a #."""
    for text in table.texts(name):
        if re.fullmatch(r"[^\s/:#]{1,15}(#[0-9]+-[0-9]+)?", text):
            yield text
        else:
            table.wrong(name, f"expected the name of an interface, of at most 15 characters, found {text or 'nothing'}")


def _pci(template: Table, file: NodeFile) -> None:
    pci = template.table("pciPerformanceOptimized", ("enabled", "maxAccOutRead", "maxReadRequest"))
    pci.remark("maxAccOutRead", _FIRMWARE)
    size = pci.number("maxReadRequest", 128, 4096)
    if size is not None and size & (size - 1):
        pci.wrong("maxReadRequest", f"expected 128, 256, 512, 1024, 2048 or 4096, found {size}")
    if pci.flag("enabled"):
        file.document["pcie"] = {"max_read_request": size or 4096}


def _queues(template: Table, file: NodeFile, matches: Iterable[str]) -> None:
    """Rings, channels and large receive offload."""
    names = ("enabled", "rxRingSize", "txRingSize", "combinedChannels", "lro")
    table = template.table("runtimePerformanceOptimized", names)
    rings = {"rx": table.number("rxRingSize", 1, 65535), "tx": table.number("txRingSize", 1, 65535)}
    channels, lro = table.number("combinedChannels", 1, 65535), table.flag("lro")
    sizes = {name: size for name, size in rings.items() if size is not None}
    values = {
        "rings": sizes or None,
        "channels": None if channels is None else {"combined": channels},
        "features": None if lro is None else {"lro": lro},
    }
    if table.flag("enabled") and any(values.values()):
        for match in matches:
            file.entry("links", match, **values)


def _roce(roce: Table, file: NodeFile, matches: Iterable[str]) -> None:
    qos = roce.table("qos", ("trust", "pfc", "tos", "cableLen", "ecn", "pauseFrames"))
    mode = roce.number("roceMode", 1, 2)
    if not roce.flag("enabled"):
        return
    trust = qos.text("trust", ("dscp", "pfc")) or "dscp"
    priorities = _priorities(qos)
    tos = qos.number("tos", 0, 255)
    marking = _marking(qos, trust, priorities, tos)
    pause = _pause(qos, priorities)
    for match in matches:
        tables = {"trust": "dscp", "dscp": {str(marking // 4): priorities[0]}} if trust == "dscp" and priorities else {}
        if trust == "pfc":
            tables = {"trust": "pcp"}
        file.entry("links", match, up=True, qos={**tables, "pfc": priorities, "dcbx": "host"}, pause=pause)
        file.roce(match, mode=f"v{mode or 2}", tos=marking or None)
    qos.remark("cableLen", "not taken over: the driver's own value stays")
    qos.remark("ecn", "congestion control " + _FIRMWARE)


def _pause(qos: Table, priorities: list[int]) -> dict[str, bool] | None:
    """Global flow control; with flow control by priority it can only be off."""
    is_on = qos.table("pauseFrames", ("enabled",)).flag("enabled")
    if is_on and priorities:
        qos.remark("pauseFrames", "not taken over: flow control by priority and global pause exclude each other")
        return None
    return None if is_on is None else {"rx": is_on, "tx": is_on}


def _priorities(qos: Table) -> list[int]:
    """`0,0,0,1,0,0,0,0` -> [3], which is also what it is without the key."""
    text = qos.text("pfc") if "pfc" in qos else "0,0,0,1,0,0,0,0"
    switches = (text or "").replace(" ", "").split(",")
    if len(switches) != 8 or set(switches) - {"0", "1"}:
        qos.wrong("pfc", f"expected eight switches such as 0,0,0,1,0,0,0,0, found {text}")
        return []
    return [number for number, switch in enumerate(switches) if switch == "1"]


def _marking(qos: Table, trust: str, priorities: list[int], tos: int | None) -> int:
    """Type of service. 0 with trust dscp would leave RoCE on priority 0, which is lossy: DSCP 26 takes its place."""
    if tos or trust != "dscp" or not priorities:
        return tos or 0
    text = "tos 0 would leave RoCE on priority 0, which has no flow control; tos 106 (DSCP 26 with ECN) takes its place"
    qos.reader.remark(qos.mark, f"{qos.path}.tos", text)
    return 106


_POLICY = (
    "resourceName",
    "nodeSelector",
    "priority",
    "mtu",
    "numVfs",
    "nicSelector",
    "deviceType",
    "isRdma",
    "needVhostNet",
    "linkType",
    "eSwitchMode",
    "vdpaType",
    "excludeTopology",
    "externallyManaged",
    "bridge",
)


def sriov_policy(reader: ForeignReader, root: Node) -> Mapping[str, Any]:
    """SriovNetworkNodePolicy: number, driver and switch mode of VFs, MTU of the physical function."""
    file = reader.node_file
    spec = reader.table(root, "", _HEAD).table("spec", _POLICY)
    selector = spec.table("nicSelector", ("vendor", "deviceID", "rootDevices", "pfNames", "netFilter"))
    number, mtu = spec.number("numVfs", 0, 4095), spec.number("mtu", 68, 65536)
    if number is None and "numVfs" not in spec:
        spec.wrong("numVfs", "key numVfs is missing")
    kind = spec.text("deviceType", ("netdevice", "vfio-pci", ""))
    mode = spec.text("eSwitchMode", ("legacy", "switchdev", ""))
    for match in _policy_matches(selector):
        file.entry("links", match, mtu=mtu, up=True)
        driver = "vfio-pci" if kind == "vfio-pci" else "default"
        file.entry("sriov", match, vfs=number, driver=driver, eswitch_mode=mode or None)
    if spec.flag("isRdma"):
        file.rdma()
    for name in ("resourceName", "nodeSelector", "priority", "excludeTopology"):
        spec.remark(name, _CLUSTER)
    for name in ("needVhostNet", "vdpaType", "bridge"):
        spec.remark(name, "has no counterpart")
    spec.remark("linkType", _FIRMWARE)
    if spec.flag("externallyManaged"):
        spec.remark("externallyManaged", "somebody else makes the functions: remove vfs, or let the agent make them")
    return file.document


def _policy_matches(selector: Table) -> list[str]:
    """PCI addresses, else names, else vendor and device."""
    selector.remark("netFilter", "not taken over: it names a cloud's network")
    addresses = list(pci_addresses(selector, "rootDevices"))
    names = []
    for text in _interfaces(selector, "pfNames"):
        name, _, span = text.partition("#")
        names.append(name)
        if span:
            selector.remark("pfNames", f"all functions of {name} are meant, not {span} alone")
    vendor, device = selector.text("vendor") or MELLANOX, selector.text("deviceID")
    if addresses or names:
        for other in ("vendor", "deviceID"):
            selector.remark(other, "not taken over: addresses or names tell the functions")
        return addresses or names
    if device is None and not {"rootDevices", "pfNames"} & set(selector.values):
        selector.wrong("deviceID", "expected rootDevices, pfNames or deviceID, so that functions can be named")
    if device is None:
        return []
    return [f"id:{pci_id(selector, 'vendor', vendor)}:{pci_id(selector, 'deviceID', device)}"]


def drivers_of(name: str) -> tuple[str, ...]:
    """The modules that belong to a NIC driver."""
    return _DRIVERS.get(name, (name,))
