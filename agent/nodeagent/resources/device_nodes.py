"""Device nodes of the NVIDIA stack: the driver makes none, so whoever loads it must (nvidia-modprobe does it else).

Numbers: open-gpu-kernel-modules common/inc/nv-chardev-numbers.h; dynamic majors may change at every load of a module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.host.paths import DEV, DEV_GDRDRV, DEV_NVIDIA_CAPS
from nodeagent.resources.base import Step, Wish
from nodeagent.spec.containers import Component
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import MigMode
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNode
from nodeagent.state.things import Thing, device_node, gpu

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

UNIT = "device-nodes"
CAPS = "nvidia-caps"
NVIDIA_MAJOR = 195
MODESET_MINOR, CONTROL_MINOR = 254, 255
GPU_NODE = re.compile(rf"{DEV}/nvidia\d+")
# Which module a node lives from; capabilities are part of module nvidia.
OWNERS: Mapping[str, str] = {
    f"{DEV}/nvidiactl": "nvidia",
    f"{DEV}/nvidia-modeset": "nvidia_modeset",
    f"{DEV}/nvidia-uvm": "nvidia_uvm",
    f"{DEV}/nvidia-uvm-tools": "nvidia_uvm",
    DEV_GDRDRV: "gdrdrv",
}
# Minors of nodes with a dynamic major, which /proc/devices shows under the driver's name.
DYNAMIC: Mapping[str, tuple[tuple[str, int], ...]] = {
    "nvidia-uvm": ((f"{DEV}/nvidia-uvm", 0), (f"{DEV}/nvidia-uvm-tools", 1)),
    "gdrdrv": ((DEV_GDRDRV, 0),),
}


@dataclass(frozen=True, kw_only=True)
class MakeDeviceNode(Step):
    """Create a character device node, or correct its number, mode and owner; `is_new`: nothing was there before.

    `of` is the UUID of the GPU whose MIG instance the node leads to, "" for any other node.
    """

    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    is_new: bool = True
    of: str = ""

    def __str__(self) -> str:
        verb = "make" if self.is_new else "correct"
        return f"{verb} device node {self.subject.name} ({self.major}:{self.minor}, mode {self.mode:04o})"

    def apply(self, host: Host) -> None:
        host.files.make_device_node(self.node())

    def node(self) -> DeviceNode:
        return DeviceNode(self.subject.name, self.major, self.minor, self.mode, self.uid, self.gid)

    def undo(self) -> Step | None:
        if not self.is_new:
            return None
        return RemoveDeviceNode(subject=self.subject, unit=self.unit, reason="undo")

    def satisfied(self, state: NodeState) -> bool:
        return state.device_nodes.get(self.subject.name) == self.node()

    @property
    def rests_on(self) -> tuple[Thing, ...]:
        return (gpu(self.of),) if self.of else ()


@dataclass(frozen=True, kw_only=True)
class RemoveDeviceNode(Step):
    """Remove a node that leads nowhere, or worse to another driver."""

    def __str__(self) -> str:
        return f"remove device node {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.files.remove(self.subject.name)

    def satisfied(self, state: NodeState) -> bool:
        return self.subject.name not in state.device_nodes


@dataclass(frozen=True)
class Access:
    """Mode and owner that the driver's parameters ask for."""

    mode: int = 0o666
    uid: int = 0
    gid: int = 0


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Nodes for what is loaded, and none for what is not; nothing unless the file has a section modules.nvidia."""
    if spec.modules is None or spec.modules.nvidia is None:
        return Wish()
    parameters = dict(state.driver.parameters) if state.driver else {}
    if parameters.get("ModifyDeviceFiles") == "0":
        return Wish(remarks=("device nodes are left alone: the driver's ModifyDeviceFiles is 0",))
    wanted = {node.path: node for node in wanted_nodes(state, access(parameters))}
    if spec.cdi is None or spec.cdi.gpus is Component.OFF:
        wanted |= capability_nodes(state)  # else section cdi makes them, in one unit with what names them
    making = (_make(node, state) for node in wanted.values() if state.device_nodes.get(node.path) != node)
    removing = (_remove(path, why) for path, why in stale_nodes(state) if path not in wanted)
    return Wish((*making, *removing))


def wanted_nodes(state: NodeState, rights: Access) -> Iterator[DeviceNode]:
    """The nodes of every loaded module of the stack, as far as their numbers are known.

    None while the driver's files cannot be read: without its parameters the right mode and owner are not known. Those
    parameters do not apply to gdrdrv, which is open to all (gdrcopy: insmod.sh).
    """
    if state.driver is None:
        return

    def node(path: str, major: int, minor: int) -> DeviceNode:
        of = Access() if path == DEV_GDRDRV else rights
        return DeviceNode(path, major, minor, of.mode, of.uid, of.gid)

    if state.is_loaded("nvidia"):
        yield node(f"{DEV}/nvidiactl", NVIDIA_MAJOR, CONTROL_MINOR)
        yield from (node(f"{DEV}/nvidia{minor}", NVIDIA_MAJOR, minor) for minor in gpu_minors(state))
    if state.is_loaded("nvidia_modeset"):
        yield node(f"{DEV}/nvidia-modeset", NVIDIA_MAJOR, MODESET_MINOR)
    for driver, places in DYNAMIC.items():
        for path, minor in places:
            if state.is_loaded(OWNERS[path]) and driver in state.majors:
                yield node(path, state.majors[driver], minor)


def capability_nodes(state: NodeState) -> Mapping[str, DeviceNode]:
    """The nodes below /dev/nvidia-caps by path, without which no program gets into a MIG instance that is there."""
    major = state.majors.get(CAPS)
    if major is None:
        return {}
    known = (state.capabilities[name] for name in sorted(_live(state)))
    nodes = (DeviceNode(_capability_path(one.minor), major, one.minor, one.mode) for one in known)
    return {node.path: node for node in nodes}


def capability_owners(state: NodeState) -> Mapping[str, str]:
    """UUID of the GPU by the path of a node that leads to one of its MIG instances."""
    return {_capability_path(state.capabilities[name].minor): uuid for name, uuid in _live(state).items()}


def _live(state: NodeState) -> Mapping[str, str]:
    """UUID of the GPU by the name of each capability of an instance that is there."""
    live = {
        f"gpu{one.minor}/gi{instance.gi_id}{inner}": one.uuid
        for one in state.gpus.values()
        if one.mig_mode is MigMode.ENABLED
        for instance in one.instances
        for inner in ("", *(f"/ci{compute.ci_id}" for compute in instance.compute_instances))
    }
    return {name: uuid for name, uuid in live.items() if name in state.capabilities}


def _capability_path(minor: int) -> str:
    return f"{DEV_NVIDIA_CAPS}/nvidia-cap{minor}"


def gpu_minors(state: NodeState) -> tuple[int, ...]:
    """Device Minor of every GPU the driver has bound, sorted."""
    shown = (dict(pairs).get("Device Minor", "") for _, pairs in (state.driver.gpu_information if state.driver else ()))
    return tuple(sorted(int(minor) for minor in shown if minor.isdecimal()))


def stale_nodes(state: NodeState) -> Iterator[tuple[str, str]]:
    """(path, why) of nodes whose module has gone, and of capability nodes with another major than the driver's.

    A module that is on its way in or out counts as there: its nodes are looked at again when it has settled.
    """
    for path, found in state.device_nodes.items():
        owner = OWNERS.get(path, "nvidia" if GPU_NODE.fullmatch(path) or _is_capability(path) else "")
        if owner and owner not in state.modules:
            yield path, f"module {owner} is not loaded"
        elif _is_capability(path) and found.major != state.majors.get("nvidia-caps", found.major):
            yield path, f"the driver's major is now {state.majors['nvidia-caps']}, the node has {found.major}"


def _is_capability(path: str) -> bool:
    return path.startswith(f"{DEV_NVIDIA_CAPS}/")


def access(parameters: Mapping[str, str]) -> Access:
    """Mode, user and group by the driver's DeviceFileMode, DeviceFileUID and DeviceFileGID (decimal in its file)."""
    return Access(
        _number(parameters.get("DeviceFileMode"), Access.mode),
        _number(parameters.get("DeviceFileUID"), Access.uid),
        _number(parameters.get("DeviceFileGID"), Access.gid),
    )


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _make(node: DeviceNode, state: NodeState) -> MakeDeviceNode:
    found, of = state.device_nodes.get(node.path), capability_owners(state).get(node.path, "")
    return MakeDeviceNode(
        subject=device_node(node.path), unit=UNIT, reason=difference(node, found), is_new=found is None,
        major=node.major, minor=node.minor, mode=node.mode, uid=node.uid, gid=node.gid, of=of,
    )  # fmt: skip


def difference(wanted: DeviceNode, found: DeviceNode | None) -> str:
    """Why a node must be made, in the user's words."""
    if found is None:
        return "it is missing"
    if (found.major, found.minor) != (wanted.major, wanted.minor):
        return f"it has {found.major}:{found.minor}"
    return f"it has mode {found.mode:04o} and owner {found.uid}:{found.gid}, not {wanted.uid}:{wanted.gid}"


def _remove(path: str, why: str) -> RemoveDeviceNode:
    return RemoveDeviceNode(subject=device_node(path), unit=UNIT, reason=why)
