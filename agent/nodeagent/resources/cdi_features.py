"""CDI specifications of what goes with GPUs: GDRCopy, GPUDirect Storage, RDMA devices, IMEX channels; pure.

Kinds, names and content are those of nvidia-container-toolkit (pkg/nvcdi/gated.go and lib-imex.go, internal/discover
gdrcopy.go, gds.go and mofed.go), which k8s-device-plugin names beside its GPUs (internal/cdi/cdi.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from nodeagent.host.paths import DEV, DEV_GDRDRV, DEV_INFINIBAND, DEV_NVIDIA_CAPS_IMEX
from nodeagent.resources.cdi_specs import ALL, Content, Device, Edits, Nodes, mount
from nodeagent.state.node import NodeState

IMEX_KIND = "nvidia.com/imex-channel"
IMEX_DRIVER = "nvidia-caps-imex-channels"  # its name in /proc/devices
# The wrapper runtime takes `void` as "do nothing": a container with one of these alone is given no GPU.
_COMMON: Edits = {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}
_STORAGE_NODE = re.compile(rf"{DEV}/nvidia-fs\d+")
_VERBS_NODE = re.compile(rf"{DEV_INFINIBAND}/uverbs\d+")
_CHANNEL = re.compile(rf"{DEV_NVIDIA_CAPS_IMEX}/channel(\d+)")


class Feature(StrEnum):
    """What a container may get besides GPUs, as one CDI device `all` of a kind of its own."""

    GDRCOPY = "gdrcopy"
    GDS = "gds"
    MOFED = "mofed"

    @property
    def kind(self) -> str:
        return f"nvidia.com/{self.value}"

    @property
    def missing(self) -> str:
        """What a node without it lacks, with advice."""
        return _MISSING[self]


_MISSING: Mapping[Feature, str] = {
    Feature.GDRCOPY: f"{DEV_GDRDRV} is not there; load gdrdrv (modules.gdrcopy)",
    Feature.GDS: f"{DEV}/nvidia-fs0 is not there; load nvidia_fs (modules.gds)",
    Feature.MOFED: f"there is no {DEV_INFINIBAND}/uverbs node; load ib_uverbs (modules.rdma)",
}


def feature_content(feature: Feature, state: NodeState, nodes: Nodes) -> Content:
    """Kind nvidia.com/gdrcopy, nvidia.com/gds or nvidia.com/mofed: one device `all`, none where nodes are missing."""
    found = feature_nodes(feature, state, nodes.modes)
    if not found:
        return Content(feature.kind, ())
    return Content(feature.kind, (Device((ALL,), found),), {**_COMMON, "mounts": _mounts(feature, state)})


def feature_nodes(feature: Feature, state: NodeState, there: Iterable[str]) -> tuple[str, ...]:
    """Its device nodes among those that are there; a node outlives its module, and then opens nothing."""
    if feature is Feature.GDRCOPY:
        return (DEV_GDRDRV,) if DEV_GDRDRV in there and state.is_loaded("gdrdrv") else ()
    if feature is Feature.GDS:
        return _matching(_STORAGE_NODE, there) if state.is_loaded("nvidia_fs") else ()
    verbs, connection = _matching(_VERBS_NODE, there), f"{DEV_INFINIBAND}/rdma_cm"
    return (*verbs, connection) if verbs and connection in there else verbs


def _matching(pattern: re.Pattern[str], there: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted((path for path in there if pattern.fullmatch(path)), key=lambda path: (len(path), path)))


def _mounts(feature: Feature, state: NodeState) -> list[Edits]:
    found = state.containers.installation
    return [mount(found.root, path) for path in found.storage] if feature is Feature.GDS else []


def imex_content(state: NodeState, nodes: Nodes) -> Content:
    """Kind nvidia.com/imex-channel: each channel whose node is there and right by its number, and `all`."""
    channels = imex_channels(state)
    wrong = tuple(
        f"IMEX channel {number} is left out: {path} has major {major}, the driver's is {state.majors.get(IMEX_DRIVER)}"
        for number, (path, major) in channels.items()
        if major != state.majors.get(IMEX_DRIVER)
    )
    right = {number: path for number, (path, major) in channels.items() if major == state.majors.get(IMEX_DRIVER)}
    devices = [Device((str(number),), (path,)) for number, path in right.items() if path in nodes]
    everything = [Device((ALL,), tuple(right.values()))] if devices else []
    return Content(IMEX_KIND, (*devices, *everything), _COMMON, wrong if state.driver is not None else ())


def imex_channels(state: NodeState) -> Mapping[int, tuple[str, int]]:
    """Path and major of each channel's node, by number. One with another major leads to another driver: the node is
    made by hand or by nvidia-modprobe, and the major is given anew at each load (nv-caps-imex.c).
    """
    found = ((_CHANNEL.fullmatch(path), node) for path, node in state.device_nodes.items())
    known = {int(match[1]): (node.path, node.major) for match, node in found if match}
    return dict(sorted(known.items()))


def imex_problem(channel: int, state: NodeState) -> str:
    """Why this channel cannot be given, "" if it can."""
    path, major = imex_channels(state).get(channel, ("", -1))
    if not path:
        return f"{DEV_NVIDIA_CAPS_IMEX}/channel{channel} is not there; see NVreg_CreateImexChannel0 and nvidia-modprobe"
    right = state.majors.get(IMEX_DRIVER)
    return "" if major == right else f"{path} has major {major}, the driver's is {right}"
