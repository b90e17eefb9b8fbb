"""The driver's capability files below /proc/driver/nvidia/capabilities: who may configure, watch or use MIG; pure.

Each names the minor of a node in /dev/nvidia-caps that user space makes; its major stands in /proc/devices. They come
and go with the instances, also with those that another process makes through NVML.

Source: open-gpu-kernel-modules kernel-open/nvidia/nv-caps.c (text, minors, modes).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation.tree_entry import Entries, Entry, Tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.simulation.machine import MigLayout

_CONFIG, _MONITOR = 1, 2
_FIRST, _PER_GPU, _PER_GI = 3, 135, 9  # minors of an instance: one of its own and one for each compute instance
_GPUS, _GIS, _CIS = 32, 15, 8
_OWNER_ONLY, _EVERYONE = 0o400, 0o444


def render(layouts: Mapping[int, MigLayout]) -> Tree:
    """The files of a loaded driver; `layouts` are those of the GPUs it drives, by device minor."""
    tree = {
        f"{paths.PROC_NVIDIA_CAPABILITIES}/mig/config": _capability(_CONFIG, _OWNER_ONLY),
        f"{paths.PROC_NVIDIA_CAPABILITIES}/mig/monitor": _capability(_MONITOR, _EVERYONE),
    }
    for gpu, layout in layouts.items():
        tree.update(_instances(gpu, layout))
    return tree


def minor(gpu: int, gi: int, ci: int | None = None) -> int:
    """Minor of the capability of a GPU instance, or of one of its compute instances; `gpu` is a device minor."""
    return _FIRST + _PER_GPU * gpu + _PER_GI * gi + (0 if ci is None else 1 + ci)


@cache
def minors() -> Entry:
    """The static table of all minors there can ever be."""
    rows = [f"config {_CONFIG}", f"monitor {_MONITOR}"]
    for gpu in range(_GPUS):
        for gi in range(_GIS):
            rows.append(f"gpu{gpu}/gi{gi}/access {minor(gpu, gi)}")
            rows.extend(f"gpu{gpu}/gi{gi}/ci{ci}/access {minor(gpu, gi, ci)}" for ci in range(_CIS))
    return Entry("".join(f"{row}\n" for row in rows))


def _instances(gpu: int, layout: MigLayout) -> Entries:
    for row in layout.rows:
        folder = f"{paths.PROC_NVIDIA_CAPABILITIES}/gpu{gpu}/mig/gi{row.gi_id}"
        yield f"{folder}/access", _capability(minor(gpu, row.gi_id), _EVERYONE)
        if row.ci_id is not None:
            yield f"{folder}/ci{row.ci_id}/access", _capability(minor(gpu, row.gi_id, row.ci_id), _EVERYONE)


def _capability(number: int, mode: int) -> Entry:
    return Entry(f"DeviceFileMinor: {number}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n")
