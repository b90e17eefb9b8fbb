"""CDI specifications as values: what a container needs for each GPU, MIG device and RDMA device; pure.

Every path in them was seen on the node. Device nodes go by path alone, so that a new major after a reload of the driver
makes no specification wrong: the runtime looks at the node when it uses it.

Sources: container-device-interface SPEC.md and specs-go/version.go (what each version added), nvidia-container-toolkit
pkg/nvcdi and internal/discover (edits for NVIDIA's driver, arguments of nvidia-cdi-hook).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodeagent.host.paths import DEV, DEV_INFINIBAND, DEV_NVIDIA_CAPS
from nodeagent.spec.containers import Cdi, DeviceName
from nodeagent.state.containers import Installation, RdmaNode
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.node import NodeState

GPU_KIND, MANAGEMENT_KIND, RDMA_KIND = "nvidia.com/gpu", "management.nvidia.com/gpu", "nodeagent.io/rdma"
ALL = "all"
CONTROL = tuple(f"{DEV}/{name}" for name in ("nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools"))
# Management means the driver and its GPUs; storage, NVSwitch and NVLink nodes have kinds of their own at NVIDIA's.
NOT_MANAGEMENT = tuple(f"{DEV}/{name}" for name in ("nvidia-fs", "nvidia-nvswitch", "nvidia-nvlink"))
OPTIONS = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
SOCKET_OPTIONS = [*OPTIONS[:3], "noexec", *OPTIONS[3:]]
OTHERS_MAY_READ_AND_WRITE = 0o006

Edits = dict[str, Any]


@dataclass(frozen=True)
class Device:
    """One device by all its names, with the nodes it needs."""

    names: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """What a specification says; `left_out` are reasons why something is not in it."""

    kind: str
    devices: tuple[Device, ...]
    common: Edits = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for device in self.devices for name in device.names)


@dataclass(frozen=True)
class Nodes:
    """The device nodes that are there, or will be before the specification is written, with mode and group."""

    modes: Mapping[str, tuple[int, int]]

    def __contains__(self, path: str) -> bool:
        return path in self.modes

    def group(self, path: str) -> int:
        """The group that may use the node, 0 where everybody may."""
        mode, gid = self.modes.get(path, (0o666, 0))
        return 0 if mode & OTHERS_MAY_READ_AND_WRITE == OTHERS_MAY_READ_AND_WRITE else gid


def capability_path(state: NodeState, name: str) -> str:
    """The node of a MIG capability such as gpu0/gi1, "" where the driver shows none."""
    found = state.capabilities.get(name)
    return f"{DEV_NVIDIA_CAPS}/nvidia-cap{found.minor}" if found else ""


def gpu_content(section: Cdi, state: NodeState, nodes: Nodes) -> Content:
    """Kind nvidia.com/gpu: every GPU, every MIG device, and `all` of them."""
    found: list[Device] = []
    left_out: list[str] = []
    for gpu in sorted(state.gpus.values(), key=lambda one: one.index):
        for device in (_whole(gpu, section, state), *_mig_devices(gpu, section, state)):
            missing = [path or "a MIG capability" for path in device.nodes if path not in nodes]
            if missing:
                left_out.append(f"{device.names[0]} is left out: {', '.join(missing)} is missing")
            else:
                found.append(device)
    devices = (*found, _all(found)) if found else ()
    return Content(GPU_KIND, devices, _driver_edits(state.containers.installation, nodes), tuple(left_out))


def _all(devices: Iterable[Device]) -> Device:
    return Device((ALL,), tuple(dict.fromkeys(node for device in devices for node in device.nodes)))


def _whole(gpu: Gpu, section: Cdi, state: NodeState) -> Device:
    names = {DeviceName.INDEX: f"{gpu.index}", DeviceName.UUID: gpu.uuid, DeviceName.TYPE_INDEX: f"gpu{gpu.index}"}
    graphics = state.containers.graphics.get(gpu.pci_address, ())
    return Device(tuple(names[kind] for kind in section.names), (f"{DEV}/nvidia{gpu.minor}", *graphics))


def _mig_devices(gpu: Gpu, section: Cdi, state: NodeState) -> Iterator[Device]:
    """Each compute instance: the GPU's node and the two capabilities that open the way to it."""
    for instance in gpu.instances if gpu.mig_mode is MigMode.ENABLED else ():
        for compute in instance.compute_instances:
            place = f"{gpu.index}:{compute.index}"
            names = {
                DeviceName.INDEX: place if compute.index >= 0 else "",
                DeviceName.UUID: compute.uuid,
                DeviceName.TYPE_INDEX: f"mig{place}" if compute.index >= 0 else "",
            }
            capability = f"gpu{gpu.minor}/gi{instance.gi_id}"
            both = (capability_path(state, capability), capability_path(state, f"{capability}/ci{compute.ci_id}"))
            known = tuple(names[kind] for kind in section.names if names[kind])
            yield Device(known or (compute.uuid,), (f"{DEV}/nvidia{gpu.minor}", *both))


def management_content(state: NodeState, nodes: Nodes) -> Content:
    """Kind management.nvidia.com/gpu: one device `all` with every node of the driver; needs no NVML."""
    paths = sorted(path for path in nodes.modes if path.startswith(f"{DEV}/nvidia"))
    wanted = tuple(path for path in paths if not path.startswith(NOT_MANAGEMENT))
    devices = (Device((ALL,), wanted),) if state.driver is not None and wanted else ()
    edits = _driver_edits(state.containers.installation, nodes)
    return Content(MANAGEMENT_KIND, devices, {name: edit for name, edit in edits.items() if name != "deviceNodes"})


def rdma_content(state: NodeState, nodes: Nodes) -> Content:
    """Kind nodeagent.io/rdma: each device by name and PCI address, each port as NAME:PORT, and `all`."""
    connection = f"{DEV_INFINIBAND}/rdma_cm"
    shared = (connection,) if connection in nodes else ()
    found: list[Device] = []
    left_out: list[str] = []
    for name, device in sorted(state.rdma.items()):
        own = tuple(node for node in state.containers.rdma_nodes.get(name, ()) if node.path in nodes)
        if not any(node.port == 0 for node in own):
            left_out.append(f"{name} is left out: it has no uverbs node; ib_uverbs makes it")
            continue
        names = (name, device.pci_address) if device.pci_address else (name,)
        found.append(Device(names, (*(node.path for node in own), *shared)))
        found += [Device((f"{name}:{port.port}",), (*_of_port(own, port.port), *shared)) for port in device.ports]
    return Content(RDMA_KIND, (*found, _all(found)) if found else (), left_out=tuple(left_out))


def _of_port(nodes: Sequence[RdmaNode], port: int) -> tuple[str, ...]:
    return tuple(node.path for node in nodes if node.port in (0, port))


def _driver_edits(found: Installation, nodes: Nodes) -> Edits:
    """What every container with a GPU gets, whichever GPU it is."""
    folder = next((one.path.rpartition("/")[0] for one in found.libraries if "/libcuda.so." in one.path), "")
    # The wrapper runtime takes `void` as "do nothing", so that a container is not given its devices twice.
    env = ["NVIDIA_VISIBLE_DEVICES=void"] + ([f"NVIDIA_CTK_LIBCUDA_DIR={folder}"] if folder else [])
    libraries = [mount(found.root, library.path) for library in found.libraries]
    links = [] if found.hook else [mount(found.root, end, link) for link, end in _link_mounts(found)]
    others = [mount(found.root, path) for path in found.files]
    sockets = [{**mount(found.root, path), "options": SOCKET_OPTIONS} for path in found.sockets]
    return {
        "env": env,
        "deviceNodes": [path for path in CONTROL if path in nodes],
        "mounts": [*libraries, *links, *others, *sockets],
        "hooks": list(_hooks(found)) if found.hook else [],
    }


def mount(root: str, path: str, at: str = "") -> Edits:
    """A path below the driver's root, where the container has it under the same name or as `at`."""
    return {"hostPath": root + path, "containerPath": at or path, "options": OPTIONS}


def _link_mounts(found: Installation) -> Iterator[tuple[str, str]]:
    """(link, library): without a hook that makes links in the container, the library is mounted under their names."""
    for library in found.libraries:
        yield from ((path, library.path) for path, _ in library.links)


def _hooks(found: Installation) -> Iterator[Edits]:
    links = [(path, target) for library in found.libraries for path, target in library.links]
    folders = dict.fromkeys(library.path.rpartition("/")[0] for library in found.libraries)
    if links:
        yield _hook(
            found.hook, "create-symlinks", [part for path, end in links for part in ("--link", f"{end}::{path}")]
        )
    if folders:
        yield _hook(found.hook, "update-ldcache", [part for folder in folders for part in ("--folder", folder)])


def _hook(program: str, name: str, arguments: Sequence[str]) -> Edits:
    args = [program.rpartition("/")[2], name, *arguments]
    return {"hookName": "createContainer", "path": program, "args": args}


def render(content: Content, section: Cdi, nodes: Nodes) -> str:
    """The specification as JSON, in the lowest version that has all it uses: older runtimes take no newer one."""
    devices = [
        {"name": name, "containerEdits": _edits(device.nodes, section, nodes)}
        for device in content.devices
        for name in device.names
    ]
    common = {name: edit for name, edit in content.common.items() if edit}
    if "deviceNodes" in common:
        common |= _edits(common["deviceNodes"], section, nodes)
    document: dict[str, Any] = {"cdiVersion": "", "kind": content.kind, "devices": devices}
    if common:
        document["containerEdits"] = common
    document["cdiVersion"] = lowest_version(document)
    return json.dumps(document, indent=1) + "\n"


def _edits(paths: Iterable[str], section: Cdi, nodes: Nodes) -> Edits:
    paths = tuple(paths)
    groups = sorted({nodes.group(path) for path in paths} - {0}) if section.additional_gids else []
    edits: Edits = {"deviceNodes": [{"path": path} for path in paths]}
    return edits | ({"additionalGids": groups} if groups else {})


def lowest_version(document: Mapping[str, Any]) -> str:
    """The first version of CDI that has every field and form of name used (specs-go/version.go)."""
    every = [document.get("containerEdits") or {}, *(device["containerEdits"] for device in document["devices"])]
    nodes = [node for edits in every for node in edits.get("deviceNodes", ())]
    if any("additionalGids" in edits or "intelRdt" in edits for edits in every):
        return "0.7.0"
    if "annotations" in document or "." in document["kind"].partition("/")[2]:
        return "0.6.0"
    if any(device["name"][:1].isdigit() for device in document["devices"]) or any("hostPath" in one for one in nodes):
        return "0.5.0"
    if any("type" in mount for edits in every for mount in edits.get("mounts", ())):
        return "0.4.0"
    return "0.3.0"
