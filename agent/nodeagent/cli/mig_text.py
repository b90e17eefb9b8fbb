"""MIG layouts for people: a picture of the slices of each GPU, profiles, and layouts that are possible."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nodeagent.cli.output import Style, columns
from nodeagent.resources.mig_names import layout_names
from nodeagent.resources.mig_placement import Board
from nodeagent.state.gpu import Gpu, GpuInstance, MigMode
from nodeagent.state.node import NodeState
from nodeagent.state.pods import users_of

_UNICODE = {"cross": "┬┴", "corner": "┌┐└┘", "line": "─", "side": "│", "free": "·"}
_ASCII = {"cross": "++", "corner": "++++", "line": "-", "side": "|", "free": "."}
_NARROWEST = 8
BUSY = "*"


def gpu_document(one: Gpu, state: NodeState) -> dict[str, Any]:
    """One GPU with everything MIG has on it."""
    return {
        "index": one.index,
        "uuid": one.uuid,
        "pciAddress": one.pci_address,
        "product": one.product,
        "mode": one.mig_mode.value,
        "pendingMode": one.pending_mig_mode.value,
        "resetless": one.resetless_mig,
        "instances": [_instance_document(instance, state) for instance in _by_place(one.instances)],
    }


def _instance_document(instance: GpuInstance, state: NodeState) -> dict[str, Any]:
    return {
        "profile": instance.profile,
        "profileId": instance.profile_id,
        "id": instance.gi_id,
        "start": instance.placement.start,
        "size": instance.placement.size,
        "computeInstances": [
            {
                "profile": compute.profile,
                "id": compute.ci_id,
                "uuid": compute.uuid,
                "start": compute.placement.start,
                "size": compute.placement.size,
                "processes": [{"pid": pid, "name": _process(pid, state)} for pid in compute.pids],
                "pods": list(compute.pods),
            }
            for compute in instance.compute_instances
        ],
    }


def _process(pid: int, state: NodeState) -> str:
    found = state.processes.get(pid)
    return (found.command or found.name) if found else ""


def show_text(gpus: Sequence[Gpu], state: NodeState, style: Style) -> str:
    """Every GPU: a head line, its picture, and its MIG devices with who runs on them."""
    return "\n\n".join("\n".join(_gpu_lines(one, state, style)) for one in gpus) or style("dim", "there are no GPUs")


def _gpu_lines(one: Gpu, state: NodeState, style: Style) -> Iterable[str]:
    pending = "" if one.mig_mode is one.pending_mig_mode else f", {one.pending_mig_mode} is pending"
    mode = {MigMode.ENABLED: "good", MigMode.DISABLED: "dim", MigMode.UNSUPPORTED: "dim"}[one.mig_mode]
    head = f"GPU {one.index}  {one.product}  {one.pci_address}  "
    yield style("bold", head) + style(mode, f"MIG {one.mig_mode}") + style("warn", pending)
    if one.mig_mode is MigMode.ENABLED:
        yield from picture(one, style)
        yield from _device_lines(one, state, style)


def picture(one: Gpu, style: Style) -> Iterable[str]:
    """Memory slices as cells, an instance over those it has; a star means that it is in use."""
    signs = _UNICODE if (sys.stdout.encoding or "").lower().startswith("utf") else _ASCII
    slices = Board.of(one.profiles).memory_slices
    cells = list(_cells(one.instances, slices))
    width = max([_NARROWEST, *(-(-(len(_label(found)) + 3) // size) for found, size in cells if found)])
    widths = [size * width - 1 for _, size in cells]
    lines = [signs["line"] * size for size in widths]
    corner, cross = signs["corner"], signs["cross"]
    yield "  " + corner[0] + cross[0].join(lines) + corner[1]
    inner = (_cell(found, size, signs, style) for (found, _), size in zip(cells, widths, strict=True))
    yield "  " + signs["side"] + signs["side"].join(inner) + signs["side"]
    yield "  " + corner[2] + cross[1].join(lines) + corner[3]
    yield style("dim", "   " + "".join(str(index).ljust(width) for index in range(slices)).rstrip())


def _cells(instances: Sequence[GpuInstance], slices: int) -> Iterable[tuple[GpuInstance | None, int]]:
    start = 0
    for instance in _by_place(instances):
        yield from ((None, 1) for _ in range(start, instance.placement.start))
        yield instance, instance.placement.size
        start = instance.placement.start + instance.placement.size
    yield from ((None, 1) for _ in range(start, slices))


def _cell(found: GpuInstance | None, size: int, signs: Mapping[str, str], style: Style) -> str:
    if found is None:
        return style("dim", signs["free"].center(size))
    meaning = "warn" if found.in_use else "bad" if not found.compute_instances else "name"
    return style(meaning, f" {_label(found)}".ljust(size))


def _label(found: GpuInstance) -> str:
    return found.profile + (f" {BUSY}" if found.in_use else " (orphan)" if not found.compute_instances else "")


def _device_lines(one: Gpu, state: NodeState, style: Style) -> Iterable[str]:
    rows = [row for instance in _by_place(one.instances) for row in _device_rows(instance, state)]
    if rows:
        yield columns(rows, ("GI", "AT", "CI", "DEVICE", "PROFILE", "USED BY"), "  ", style.width)
    else:
        yield "  " + style("dim", "no instances")


def _device_rows(instance: GpuInstance, state: NodeState) -> Iterable[tuple[str, ...]]:
    place = (str(instance.gi_id), f"{instance.placement.start}:{instance.placement.size}")
    if not instance.compute_instances:
        yield (*place, "-", "-", instance.profile, "no compute instance: nobody can use it")
    for compute in instance.compute_instances:
        users = users_of(compute, state.processes) or "-"
        yield (*place, str(compute.ci_id), compute.uuid, compute.profile, users)


def profiles_document(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """What each kind of GPU offers; GPUs that offer the same share an entry."""
    return [
        {
            "gpus": [one.index for one in members],
            "product": members[0].product,
            "profiles": [
                {
                    "name": profile.name,
                    "id": profile.profile_id,
                    "slices": profile.slice_count,
                    "memoryMib": profile.memory_mib,
                    "max": profile.instance_count,
                    "starts": [place.start for place in profile.placements],
                    "size": Board.of(members[0].profiles).size(profile.name),
                }
                for profile in members[0].profiles
            ],
            "layouts": list(layout_names(members[0].profiles)) if members[0].profiles else [],
        }
        for members in alike(gpus)
    ]


def profiles_text(document: Sequence[Mapping[str, Any]], style: Style) -> str:
    return "\n\n".join(_board_text(entry, style) for entry in document) or style("dim", "no GPU can do MIG")


def _board_text(entry: Mapping[str, Any], style: Style) -> str:
    title = style("bold", f"{entry['product']} (GPU {indices(entry['gpus'])})")
    if not entry["profiles"]:
        return f"{title}\n  " + style("dim", "the driver lists its profiles once MIG is on")
    rows = [
        (
            profile["name"],
            str(profile["id"]),
            str(profile["slices"]),
            str(profile["size"]),
            f"{profile['memoryMib'] / 1024:.1f} GiB",
            str(profile["max"]),
            ", ".join(map(str, profile["starts"])),
        )
        for profile in entry["profiles"]
    ]
    header = ("PROFILE", "ID", "COMPUTE", "MEMORY", "SIZE", "MAX", "CAN START AT")
    layouts = style.wrap("  layouts: " + ", ".join(entry["layouts"]), 4)
    return "\n".join([title, columns(rows, header, "  ", style.width), *layouts])


def fit_text(document: Sequence[Mapping[str, Any]], style: Style) -> str:
    """The layouts possible on each kind of GPU."""
    return "\n\n".join("\n".join(_fit_lines(entry, style)) for entry in document) or style("dim", "no GPU can do MIG")


def _fit_lines(entry: Mapping[str, Any], style: Style) -> Iterable[str]:
    yield style("bold", f"{entry['product']} (GPU {indices(entry['gpus'])})")
    for one in entry["inUse"]:
        yield style("warn", f"  in use: {one}")
    for problem in entry["problems"]:
        yield f"  {style('bad', 'x')} {problem}"
    for layout in entry["layouts"]:
        text = " + ".join(f"{count} x {name}" for name, count in layout.items())
        yield f"  {style('good', '=') if layout == entry['now'] else ' '} {text}"


def alike(gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    """GPUs that can do MIG, those with equal profiles together."""
    groups: dict[tuple[object, ...], list[Gpu]] = {}
    for one in gpus:
        if one.mig_mode is not MigMode.UNSUPPORTED:
            groups.setdefault((one.product, one.profiles), []).append(one)
    return list(groups.values())


def indices(numbers: Sequence[int]) -> str:
    """`0-3, 6`."""
    parts: list[str] = []
    for number in sorted(numbers):
        if parts and number - 1 == int(parts[-1].rpartition("-")[2]):
            parts[-1] = f"{parts[-1].partition('-')[0]}-{number}"
        else:
            parts.append(str(number))
    return ", ".join(parts)


def _by_place(instances: Iterable[GpuInstance]) -> list[GpuInstance]:
    return sorted(instances, key=lambda one: one.placement)
