"""The loaded NVIDIA driver, by /proc/driver/nvidia (open-gpu-kernel-modules: kernel-open/nvidia/nv-procfs.c)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from nodeagent.host.paths import PROC_NVIDIA, PROC_NVIDIA_CAPABILITIES
from nodeagent.host.ports import Files
from nodeagent.state.gpu import Capability, NvidiaDriver

VERSION = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")
# Module parameters that the driver's params file shows under another name (nv-reg.h).
SHOWN_AS: Mapping[str, str] = {"RmProfilingAdminOnly": "RestrictProfilingToAdminUsers"}


def read_driver(files: Files) -> NvidiaDriver | None:
    """Version, build, parameters and GPU information of the driver, None while it is not loaded."""
    text = files.read_optional(f"{PROC_NVIDIA}/version")
    if text is None:
        return None
    version, is_open = parse_version(text)
    return NvidiaDriver(version, is_open, tuple(sorted(loaded_parameters(files).items())), _information(files))


def parse_version(text: str) -> tuple[str, bool]:
    """Version ("550.54.15", "" if unknown) and whether it is the open build, from /proc/driver/nvidia/version."""
    line = next((line for line in text.splitlines() if line.startswith("NVRM version")), text)
    found = VERSION.search(line)
    return (found.group(1) if found else ""), "Open Kernel Module" in line


def loaded_parameters(files: Files) -> dict[str, str]:
    """Parameters of module nvidia in force, without the NVreg_ prefix; empty while the driver is not loaded.

    A parameter that the driver shows under another name appears under both.
    """
    shown = dict(parse_pairs(files.read_optional(f"{PROC_NVIDIA}/params") or ""))
    return shown | {SHOWN_AS[name]: value for name, value in shown.items() if name in SHOWN_AS}


def parse_pairs(text: str) -> Iterator[tuple[str, str]]:
    """The `Key: value` lines of a driver file; texts lose their quotes."""
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator and key.strip():
            yield key.strip(), value.strip().strip('"')


def _information(files: Files) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """(PCI address, (key, value) pairs) of every GPU the driver has bound, by address."""
    directory = f"{PROC_NVIDIA}/gpus"
    texts = ((address, files.read_optional(f"{directory}/{address}/information")) for address in files.names(directory))
    return tuple((address.lower(), tuple(parse_pairs(text))) for address, text in texts if text is not None)


def read_capabilities(files: Files) -> Mapping[str, Capability]:
    """MIG capabilities by gpuN/giM and gpuN/giM/ciK; those of instances that are there now."""
    found: dict[str, Capability] = {}
    for gpu in files.names(PROC_NVIDIA_CAPABILITIES):
        folder = f"{PROC_NVIDIA_CAPABILITIES}/{gpu}/mig"
        for instance in files.names(folder) if gpu.startswith("gpu") else ():
            inner = [name for name in files.names(f"{folder}/{instance}") if name.startswith("ci")]
            for place in ("", *(f"/{name}" for name in inner)):
                text = files.read_optional(f"{folder}/{instance}{place}/access")
                if text is not None:
                    found[f"{gpu}/{instance}{place}"] = parse_capability(text)
    return MappingProxyType(found)


def parse_capability(text: str) -> Capability:
    """Minor and mode, which the file has in decimal."""
    values = dict(parse_pairs(text))
    return Capability(int(values.get("DeviceFileMinor", "-1")), int(values.get("DeviceFileMode", "292")))
