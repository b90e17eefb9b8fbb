"""The MIG layout that is there, as a node file's section and as a configuration of nvidia-mig-parted; pure.

Applying what was exported changes nothing. GPUs that are alike share an entry.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from nodeagent.resources.mig_compute import widths
from nodeagent.resources.mig_names import device_name
from nodeagent.resources.mig_placement import FILLS
from nodeagent.state.gpu import MigMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nodeagent.state.gpu import Gpu, GpuInstance

ALL = "all"


def parted_document(gpus: Iterable[Gpu], label: str) -> dict[str, Any]:
    """A file in nvidia-mig-parted's format with the present layout under this label. Indices are in PCI order."""
    board = sorted(gpus, key=lambda one: one.pci_address)
    groups = _alike([(index, one) for index, one in enumerate(board) if one.mig_mode is not MigMode.UNSUPPORTED])
    entries = [
        {
            "devices": ALL if len(groups) == 1 else [index for index, _ in members],
            "mig-enabled": members[0][1].mig_mode is MigMode.ENABLED,
            "mig-devices": devices_of(members[0][1]),
        }
        for members in groups
    ]
    return {"version": "v1", "mig-configs": {label: entries}}


def node_document(gpus: Iterable[Gpu], *, exact: bool) -> dict[str, Any]:
    """A node file with the present layout; `exact` names every instance with its place."""
    board = sorted(gpus, key=lambda one: one.index)
    groups = _alike([(one.index, one) for one in board if one.mig_mode is not MigMode.UNSUPPORTED], exact=exact)
    entries = []
    for members in groups:
        first = members[0][1]
        entry: dict[str, Any] = {"mode": first.mig_mode.value}
        entry["gpus"] = ALL if len(groups) == 1 else [one.uuid for _, one in members]
        if first.mig_mode is MigMode.ENABLED:
            entry |= {"instances": _instances(first)} if exact else {"devices": devices_of(first)}
        entries.append(entry)
    return {"version": 1, "mig": entries}


def devices_of(one: Gpu) -> dict[str, int]:
    """How many MIG devices of each profile a GPU has, in the order of the driver's profiles."""
    names = (
        device_name(instance.profile, width)
        for instance in sorted(one.instances, key=lambda instance: (-instance.placement.size, instance.profile))
        for width in widths(instance)
    )
    return dict(Counter(names))


def _instances(one: Gpu) -> list[dict[str, Any]]:
    return [_instance(instance) for instance in sorted(one.instances, key=lambda instance: instance.placement)]


def _instance(instance: GpuInstance) -> dict[str, Any]:
    compute = {f"{width}c": count for width, count in Counter(widths(instance)).items() if width != FILLS}
    return {
        "profile": instance.profile,
        "start": instance.placement.start,
        **({"compute": compute} if compute else {}),
    }


def _alike(board: Sequence[tuple[int, Gpu]], *, exact: bool = False) -> list[list[tuple[int, Gpu]]]:
    """GPUs with the same mode and layout, in the order of the first of each group."""
    groups: dict[str, list[tuple[int, Gpu]]] = {}
    for index, one in board:
        layout = _instances(one) if exact else sorted(devices_of(one).items())
        groups.setdefault(f"{one.mig_mode} {layout}", []).append((index, one))
    return list(groups.values())
