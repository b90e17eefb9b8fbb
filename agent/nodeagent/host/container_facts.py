"""What containers get from the node, read from files: driver user space, CDI specifications, nodes.

Sources: container-device-interface SPEC.md and pkg/cdi (directories, file names, conflicts), open-gpu-kernel-modules
kernel-open/nvidia/nv-caps.c, Documentation/ABI/stable/sysfs-class-infiniband.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from nodeagent.errors import HostError
from nodeagent.host import paths
from nodeagent.host.driver_files import read_installation
from nodeagent.host.mounted_files import MountedFiles
from nodeagent.host.ports import Files
from nodeagent.state.containers import CdiFile, ContainerQuery, Containers, RdmaNode

FILE_LIMIT = 4 << 20
_KIND = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


def read_containers(files: Files, query: ContainerQuery, version: str, pci: Iterable[str]) -> Containers:
    """Everything the query asks for but the runtimes. `version` is the loaded driver's, "" for none."""
    seen = MountedFiles(files.root, query.host_root) if query.host_root else files
    return Containers(
        installation=read_installation(seen, version, query.driver_root),
        cdi_files=read_cdi_files(files, query.cdi_directories),
        graphics=MappingProxyType({address: nodes for address in pci if (nodes := _graphics(files, address))}),
        rdma_nodes=_rdma_nodes(files),
        texts=MappingProxyType({path: text for path in query.files if (text := text_of(files, path)) is not None}),
        machine=(files.read_optional(paths.SYS_PRODUCT_NAME) or "").strip(),
        now=time.time(),
    )


def text_of(files: Files, path: str) -> str | None:
    """The whole text with its last newline, None if there is no such file. HostError, UnicodeDecodeError is none."""
    if not files.exists(path):
        return None
    return files.read_bytes(path, FILE_LIMIT).decode(errors="replace")


def read_cdi_files(files: Files, directories: Iterable[str]) -> tuple[CdiFile, ...]:
    """Every specification in these directories, by directory and name, as a runtime reads them."""
    return tuple(_cdi_file(files, path) for folder in directories for path in _specification_paths(files, folder))


def not_there(files: Files, host_root: str, needed: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Of these paths of the node those that are not there, and those that cannot be told from this container.

    With `host_root` files are looked for below it, device nodes in our own /dev. What lies in a folder that is not
    mounted there cannot be told.
    """
    if not host_root:
        return frozenset(path for path in needed if not files.exists(path)), frozenset()
    seen = MountedFiles(files.root, host_root)
    devices = {path for path in needed if path.startswith(f"{paths.DEV}/")}
    gone = {path for path in set(needed) - devices if not _is_there(seen, path)}
    hidden = {path for path in gone if _is_hidden(seen, path)}
    return frozenset(gone - hidden | {path for path in devices if not files.exists(path)}), frozenset(hidden)


def _is_there(files: Files, path: str) -> bool:
    """/lib, /bin and the like are links to /usr on every node, and may be missing where only /usr is mounted."""
    return files.exists(path) or files.exists(f"/usr{path}")


def _is_hidden(seen: Files, path: str) -> bool:
    """Whether not even the second folder of the path is there: a mount below makes the first one by itself."""
    return not seen.exists("/".join(path.split("/")[:3]))


def _specification_paths(files: Files, folder: str) -> Iterator[str]:
    return (f"{folder}/{name}" for name in files.names(folder) if name.endswith((".json", ".yaml")))


def _cdi_file(files: Files, path: str) -> CdiFile:
    try:
        text = text_of(files, path) or ""
        return parse_cdi(path, text)
    except HostError as error:
        return CdiFile(path, "", problem=str(error))


def parse_cdi(path: str, text: str) -> CdiFile:
    """Kind, devices and needed paths of a specification; one that cannot be read says why in `problem`."""
    try:
        document = _parsed(path, text)
        kind = str(document["kind"])
        devices = tuple(str(device["name"]) for device in document["devices"])
        needed = tuple(dict.fromkeys(_needed(document)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return CdiFile(path, text, problem=f"it is not a CDI specification ({type(error).__name__}: {error})")
    problem = "" if _KIND.fullmatch(kind) else f"its kind {kind!r} is not VENDOR/CLASS"
    return CdiFile(path, text, kind, devices, needed, problem)


def _parsed(path: str, text: str) -> Any:
    if path.endswith(".json"):
        return json.loads(text)
    import yaml  # noqa: PLC0415 - other tools' files only; ours are JSON

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def _needed(document: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the host that the edits name."""
    edits = [document.get("containerEdits"), *(device.get("containerEdits") for device in document["devices"])]
    for edit in filter(None, edits):
        for node in edit.get("deviceNodes") or ():
            yield str(node.get("hostPath") or node["path"])
        for mount in edit.get("mounts") or ():
            yield str(mount["hostPath"])
        for hook in edit.get("hooks") or ():
            yield str(hook["path"])


def _graphics(files: Files, address: str) -> tuple[str, ...]:
    names = files.names(f"{paths.SYS_PCI_DEVICES}/{address}/drm")
    nodes = (f"{paths.DEV_DRI}/{name}" for name in names if name.startswith(("card", "renderD")))
    return tuple(node for node in nodes if files.device_node(node) is not None)


def _rdma_nodes(files: Files) -> Mapping[str, tuple[RdmaNode, ...]]:
    """The nodes of each RDMA device that are there: uverbs for all of it, umad and issm for a port."""
    found: dict[str, list[RdmaNode]] = {}
    for folder in (paths.SYS_CLASS_VERBS, paths.SYS_CLASS_MAD):
        for name in files.names(folder):
            device = (files.read_optional(f"{folder}/{name}/ibdev") or "").strip()
            port = (files.read_optional(f"{folder}/{name}/port") or "").strip()
            path = f"{paths.DEV_INFINIBAND}/{name}"
            if device and files.device_node(path) is not None:
                number = int(port) if port.isdecimal() else 1
                found.setdefault(device, []).append(RdmaNode(path, number if folder == paths.SYS_CLASS_MAD else 0))
    return MappingProxyType({device: tuple(nodes) for device, nodes in found.items()})
