"""User space of the NVIDIA driver in a simulated node's directory: small files with the names a real driver has.

Names: nvidia-container-toolkit internal/discover; the driver's README, "Installed Components".
"""

from __future__ import annotations

import os
from contextlib import suppress

LIBRARY_FOLDER = "/usr/lib/x86_64-linux-gnu"
# name -> soname version; a development link (.so) only where the driver brings one.
_LIBRARIES = {
    "libcuda": "1",
    "libcudadebugger": "1",
    "libnvcuvid": "1",
    "libnvidia-allocator": "1",
    "libnvidia-cfg": "1",
    "libnvidia-encode": "1",
    "libnvidia-ml": "1",
    "libnvidia-ngx": "1",
    "libnvidia-nvvm": "4",
    "libnvidia-opencl": "1",
    "libnvidia-opticalflow": "1",
    "libnvidia-ptxjitcompiler": "1",
    "libnvoptix": "1",
}
_PLAIN_LINK = frozenset({"libcuda", "libnvidia-ml", "libnvcuvid", "libnvidia-encode", "libnvidia-opticalflow"})
_WITHOUT_SONAME = ("libnvidia-gpucomp", "libnvidia-glcore", "libnvidia-rtcore", "libnvidia-glsi")
_PROGRAMS = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
)
_FIRMWARE = ("gsp_ga10x.bin", "gsp_tu10x.bin")


def install_driver(place: str, version: str) -> None:
    """Write what the driver's packages install for this version; what is there is written again."""
    folder = place + LIBRARY_FOLDER
    for name in (*_LIBRARIES, *_WITHOUT_SONAME):
        _write(f"{folder}/{name}.so.{version}", f"{name} {version}\n")
    for name, soname in _LIBRARIES.items():
        _link(f"{folder}/{name}.so.{soname}", f"{name}.so.{version}")
        if name in _PLAIN_LINK:
            _link(f"{folder}/{name}.so", f"{name}.so.{soname}")
    _write(f"{folder}/vdpau/libvdpau_nvidia.so.{version}", "vdpau\n")
    for name in _PROGRAMS:
        _write(f"{place}/usr/bin/{name}", f"#!/bin/sh\necho {name} {version}\n", 0o755)
    for name in _FIRMWARE:
        _write(f"{place}/lib/firmware/nvidia/{version}/{name}", "firmware\n")


def remove_driver(place: str, version: str) -> None:
    """Take the libraries of this version away, as an upgrade of the packages does."""
    folder = place + LIBRARY_FOLDER
    for name in os.listdir(folder):
        if name.endswith(f".so.{version}"):
            os.unlink(f"{folder}/{name}")


def _write(path: str, text: str, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def _link(path: str, target: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    os.symlink(target, path)
