"""User space of the NVIDIA driver on disk: which libraries, programs, firmware and sockets a container needs of it.

Which files belong to it: nvidia-container-toolkit, pkg/nvcdi/driver-nvml.go and internal/discover (lists of names);
format of the loader's cache: glibc, sysdeps/generic/dl-cache.h.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

from nodeagent.errors import HostError
from nodeagent.host import paths
from nodeagent.host.ports import Files
from nodeagent.state.containers import Installation, Library

LIBRARY_DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
BESIDE = ("", "/vdpau", "/nvidia/current")
_CUDA = re.compile(r"libcuda\.so\.(\d{3,}\.\d+(?:\.\d+)?)")
# Libraries with a version of their own, which come with the driver.
_OWN_VERSION = re.compile(r"libnvidia-(egl-(gbm|wayland|xcb|xlib)|nvvm70|container-go)\.so\.[\d.]+")
PROGRAMS = (
    "/usr/bin/nvidia-smi",
    "/usr/bin/nvidia-debugdump",
    "/usr/bin/nvidia-persistenced",
    "/usr/bin/nvidia-cuda-mps-control",
    "/usr/bin/nvidia-cuda-mps-server",
    "/usr/bin/nvidia-imex",
    "/usr/bin/nvidia-imex-ctl",
)
HOOKS = ("/usr/bin/nvidia-cdi-hook", "/usr/local/nvidia/toolkit/nvidia-cdi-hook")
_NEW_MAGIC, _OLD_MAGIC = b"glibc-ld.so.cache1.1", b"ld.so-1.7.0\0"
_HEADER, _ENTRY = struct.Struct("<II4sI12x"), struct.Struct("<iIIIQ")
_OLD_ENTRY_SIZE = 12
_CACHE_LIMIT = 8 << 20


def read_installation(files: Files, version: str, root: str = "") -> Installation:
    """What is there of the driver of this version below `root`; without a version only the hook and what others say."""
    hook = next((path for path in HOOKS if files.exists(path)), "")
    folders = _library_folders(files, root)
    others = sorted({found[1] for folder in folders for found in _cuda(files, root + folder)} - {version})
    if not version:
        return Installation(root, others=tuple(others), hook=hook)
    home = [folder for folder in folders if f"libcuda.so.{version}" in files.names(root + folder)]
    libraries = tuple(library for folder in home[:1] for library in _libraries(files, root, folder, version))
    return Installation(
        root=root,
        version=version,
        libraries=libraries,
        files=tuple(path for path in (*PROGRAMS, *_data(files, root, version)) if files.exists(root + path)),
        sockets=tuple(path for path in paths.DRIVER_SOCKETS if files.exists(root + path)),
        storage=tuple(path for path in paths.DRIVER_STORAGE if files.exists(root + path)),
        others=tuple(others),
        hook=hook,
    )


def _cuda(files: Files, folder: str) -> Iterator[re.Match[str]]:
    return (found for name in files.names(folder) if (found := _CUDA.fullmatch(name)))


def _library_folders(files: Files, root: str) -> tuple[str, ...]:
    """Where the loader looks for libcuda, then the usual places; each directory once."""
    try:
        cache = files.read_bytes(root + paths.LOADER_CACHE, _CACHE_LIMIT)
    except HostError:
        cache = b""
    cached = (path.rpartition("/")[0] for name, path in parse_loader_cache(cache) if name.startswith("libcuda.so"))
    return tuple(dict.fromkeys((*cached, *LIBRARY_DIRECTORIES)))


def parse_loader_cache(data: bytes) -> tuple[tuple[str, str], ...]:
    """(soname, path) of every entry of /etc/ld.so.cache in the format of glibc 2.2 and later, empty for any other.

    The new format may stand behind the one before it, aligned to eight bytes.
    """
    start = 0
    if data.startswith(_OLD_MAGIC) and len(data) >= 16:
        start = (16 + struct.unpack_from("<I", data, 12)[0] * _OLD_ENTRY_SIZE + 7) & ~7
    if not data[start:].startswith(_NEW_MAGIC):
        return ()
    try:
        count, _, _, _ = _HEADER.unpack_from(data, start + len(_NEW_MAGIC))
        first = start + len(_NEW_MAGIC) + _HEADER.size
        rows = [_ENTRY.unpack_from(data, first + number * _ENTRY.size) for number in range(count)]
        return tuple((_text(data, start + row[1]), _text(data, start + row[2])) for row in rows)
    except (struct.error, ValueError):
        return ()


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode(errors="replace")


def _libraries(files: Files, root: str, home: str, version: str) -> Iterator[Library]:
    """Every library of exactly this version, and those with versions of their own, with the links to each."""
    for folder in (home + beside for beside in BESIDE):
        names = files.names(root + folder)
        targets = {name: files.link(f"{root}{folder}/{name}") for name in names}
        for name in names:
            wanted = name.endswith(f".so.{version}") or _OWN_VERSION.fullmatch(name)
            if wanted and not targets[name] and files.exists(f"{root}{folder}/{name}"):
                yield Library(f"{folder}/{name}", tuple(_links(folder, name, targets.items())))


def _links(folder: str, name: str, targets: Iterable[tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Links beside the file that end at it, also over another link: libcuda.so -> libcuda.so.1 -> the file."""
    by_name = {link: target for link, target in targets if target}
    for link, target in by_name.items():
        end, steps = target, 0
        while end in by_name and steps < len(by_name):
            end, steps = by_name[end], steps + 1
        if end.rpartition("/")[2] == name:
            yield f"{folder}/{link}", target


def _data(files: Files, root: str, version: str) -> Iterator[str]:
    """Firmware of the GPU's own processor, and what graphics and OpenCL libraries read."""
    for folder in _firmware_folders(files, version):
        names = [name for name in files.names(root + folder) if name.startswith("gsp") and name.endswith(".bin")]
        if names:
            yield from (f"{folder}/{name}" for name in names)
            break
    yield from paths.DRIVER_DATA


def _firmware_folders(files: Files, version: str) -> Iterator[str]:
    """As the kernel looks for firmware (Documentation/driver-api/firmware/fw_search_path.rst)."""
    own = (files.read_optional(paths.SYS_FIRMWARE_PATH) or "").strip()
    release = files.read_optional(paths.PROC_OSRELEASE) or ""
    standard = (f"updates/{release}", "updates", release)
    folders = (*((own,) if own else ()), *(f"{paths.FIRMWARE}/{part}" for part in standard), paths.FIRMWARE)
    yield from (f"{folder}/nvidia/{version}" for folder in folders)
