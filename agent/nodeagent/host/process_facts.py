"""Device numbers, device nodes, and where a process runs by its cgroup: parsers and thin readers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.host.paths import DEV, DEV_GDRDRV, DEV_INFINIBAND, DEV_NVIDIA_CAPS, DEV_NVIDIA_CAPS_IMEX, PROC_DEVICES
from nodeagent.host.ports import Files
from nodeagent.state.processes import DeviceNode

CONTAINER = re.compile(r"(?:^|[-:])([0-9a-f]{64})(?:\.scope)?$")
POD = re.compile(r"(?:^|-)pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=$|[.:])")
UNIT = re.compile(r"[^/]+\.(?:service|scope)")
MONITOR = "-conmon-"  # podman's and CRI-O's monitor process has a scope of its own, beside the container
# Mounts where looking at a file may wait for a server that is gone; so may every FUSE mount but those named.
NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "gpfs", "beegfs", "beegfs_nodev", "glusterfs", "afs"}
)
LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuse.lxcfs"})


@dataclass(frozen=True)
class Place:
    """Where a process runs: systemd unit, container id, pod UID with dashes; "" where it is in none."""

    unit: str = ""
    container: str = ""
    pod_uid: str = ""


def read_majors(files: Files) -> Mapping[str, int]:
    """Character drivers and their majors, from /proc/devices."""
    return MappingProxyType(parse_devices(files.read_optional(PROC_DEVICES) or ""))


def parse_devices(text: str) -> dict[str, int]:
    """Driver name -> major.

    Where ranges of minors share a major (nvidia, nvidia-modeset and nvidiactl on 195), the driver of the lowest minors
    stands for all, so that a major has one name.
    """
    majors: dict[str, int] = {}
    for line in text.partition("Block devices:")[0].splitlines():
        number, _, name = line.strip().partition(" ")
        if number.isdecimal() and name and int(number) not in majors.values():
            majors.setdefault(name.strip(), int(number))
    return majors


def read_device_nodes(files: Files) -> Mapping[str, DeviceNode]:
    """The device nodes of GPUs and the RDMA stack below /dev, by path."""
    found = (files.device_node(path) for path in _node_paths(files))
    return MappingProxyType({node.path: node for node in found if node is not None})


def _node_paths(files: Files) -> Iterable[str]:
    yield from (f"{DEV}/{name}" for name in files.names(DEV) if name.startswith("nvidia"))
    yield DEV_GDRDRV
    for directory in (DEV_NVIDIA_CAPS, DEV_NVIDIA_CAPS_IMEX, DEV_INFINIBAND):
        yield from (f"{directory}/{name}" for name in files.names(directory))


def parse_cgroup(text: str) -> Place:
    """The place of a process by its /proc/PID/cgroup, version 1 or 2 (cgroups(7)).

    Knows the names that docker, containerd, CRI-O, podman and the kubelet give, with the systemd and the cgroupfs
    driver; of containers inside containers the innermost counts. A process in a container belongs to no unit.
    """
    paths = [line.split(":", 2)[2] for line in _by_weight(text.splitlines())]
    container = next(filter(None, map(_container, paths)), "")
    pod_uid = next(filter(None, map(pod_of, paths)), "")
    unit = "" if container else next(filter(None, map(_unit, paths)), "")
    return Place(unit, container, pod_uid)


def _by_weight(lines: Iterable[str]) -> list[str]:
    """Of the hierarchies systemd's own and the unified one first: the others may lag behind or be shared."""
    whole = [line for line in lines if line.count(":") >= 2]
    return sorted(whole, key=lambda line: line.split(":", 2)[1] not in ("", "name=systemd"))


def _container(path: str) -> str:
    found = (CONTAINER.search(part) for part in reversed(path.split("/")) if MONITOR not in part)
    return next((match.group(1) for match in found if match), "")


def pod_of(path: str) -> str:
    """The UID of the pod that a cgroup's path names, "" for none."""
    found = [match.group(1) for part in path.split("/") if (match := POD.search(part))]
    return found[-1].replace("_", "-") if found else ""


def _unit(path: str) -> str:
    """The outermost unit: it belongs to the system's manager, unlike those below user@UID.service."""
    return next((part for part in path.split("/") if UNIT.fullmatch(part)), "")


def format_command(raw: str, limit: int = 120) -> str:
    """A command line from /proc/PID/cmdline for one line of text, at most `limit` characters."""
    text = " ".join(raw.replace("\0", " ").split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def parse_network_mounts(text: str) -> tuple[tuple[str, bool], ...]:
    """(mount point, is on the network) of a /proc/PID/mounts, longest first; empty if there is no network mount."""
    rows = [row for row in map(str.split, text.splitlines()) if len(row) >= 3]
    mounts = [(row[1], _is_remote(row[2])) for row in rows]
    return tuple(sorted(mounts, key=lambda mount: -len(mount[0]))) if any(remote for _, remote in mounts) else ()


def _is_remote(filesystem: str) -> bool:
    return filesystem in NETWORK_TYPES or (filesystem.startswith("fuse.") and filesystem not in LOCAL_FUSE)


def is_on_network(path: str, mounts: Iterable[tuple[str, bool]]) -> bool:
    """Whether the file lies on a network mount, by the longest mount point that holds it."""
    return next(
        (remote for point, remote in mounts if path == point or path.startswith(point.rstrip("/") + "/")), False
    )
