"""Checkpoints of MIG layouts in nvidia-mig-parted's format: modes, GPU instances with places, compute instances.

Source: nvidia-mig-parted v0.15, api/checkpoint/v1 and pkg/types. Its ProfileID is the enumerator of nvml.h
(NVML_GPU_INSTANCE_PROFILE_*, NVML_COMPUTE_INSTANCE_PROFILE_*), not the id that nvidia-smi prints. Places of compute
instances are not part of the format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nodeagent.errors import SpecError, SpecProblem
from nodeagent.spec.reader import read_text
from nodeagent.spec.schema import MigEntry, MigInstance
from nodeagent.state.gpu import Gpu, GpuInstance, MigMode, MigProfile

VERSION = "v1"
# Width in slices of NVML_COMPUTE_INSTANCE_PROFILE_0.._8; 7 is the wide one-slice profile, which fills, and so does 8.
_WIDTHS = (1, 2, 3, 4, 7, 8, 6, 0, 0)
_ENUMERATORS = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4, 8: 5, 6: 6}
_WIDE = 7


def checkpoint_document(gpus: Iterable[Gpu]) -> dict[str, Any]:
    """The layout of every GPU that can do MIG, as nvidia-mig-parted would write it."""
    capable = [one for one in gpus if one.mig_mode is not MigMode.UNSUPPORTED]
    return {"Version": VERSION, "MigState": {"Devices": [_device(one) for one in capable]}}


def _device(one: Gpu) -> dict[str, Any]:
    profiles = {profile.name: profile for profile in one.profiles}
    return {
        "UUID": one.uuid,
        "MigMode": int(one.mig_mode is MigMode.ENABLED),
        "GpuInstances": [_instance(instance, profiles[instance.profile]) for instance in one.instances],
    }


def _instance(instance: GpuInstance, profile: MigProfile) -> dict[str, Any]:
    return {
        "ProfileID": profile.enumerator,
        "Placement": {"Start": instance.placement.start, "Size": instance.placement.size},
        "ComputeInstances": [
            {"ProfileID": _compute_enumerator(compute.profile, instance, profile), "EngProfileID": 0}
            for compute in instance.compute_instances
        ],
    }


def _compute_enumerator(name: str, instance: GpuInstance, profile: MigProfile) -> int:
    if name != instance.profile:
        return _ENUMERATORS[int(name[0])]
    narrow = any(one.slice_count == profile.slice_count and one.name != name for one in instance.compute_profiles)
    return _WIDE if narrow else _ENUMERATORS[profile.slice_count]


def read_checkpoint(path: str) -> Mapping[str, Any]:
    """The document at `path`. SpecError where it is not a checkpoint of a version that is known."""
    text = read_text(path, "a checkpoint (JSON) as `nodeagent mig checkpoint --file` writes it")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(
            (SpecProblem(path, error.lineno, error.colno, "", f"not JSON: {error.msg.lower()}"),)
        ) from error
    if not isinstance(document, Mapping) or document.get("Version") != VERSION:
        seen = document.get("Version") if isinstance(document, Mapping) else None
        raise SpecError((SpecProblem(path, 1, 1, "Version", f"version {seen} is not known; expected {VERSION}"),))
    return document


def entries_of(document: Mapping[str, Any], gpus: Iterable[Gpu], file: str) -> tuple[MigEntry, ...]:
    """The checkpoint as entries of a node file, for the GPUs it names. SpecError: a GPU or profile is not here."""
    board = {one.uuid: one for one in gpus}
    devices = _get(document, "MigState", Mapping, file, "MigState")
    found = _get(devices, "Devices", Sequence, file, "MigState.Devices")
    return tuple(_entry(one, board, file, f"MigState.Devices[{index}]") for index, one in enumerate(found))


def _entry(device: Any, board: Mapping[str, Gpu], file: str, path: str) -> MigEntry:
    uuid = _get(device, "UUID", str, file, f"{path}.UUID")
    if uuid not in board:
        advice = f"expected one of {', '.join(board)}" if board else "there are no GPUs"
        raise SpecError((SpecProblem(file, 0, 0, f"{path}.UUID", f"there is no GPU {uuid}; {advice}"),))
    mode = _get(device, "MigMode", int, file, f"{path}.MigMode")
    if not mode:
        return MigEntry(mode=MigMode.DISABLED, gpus=(uuid,))
    profiles = {one.enumerator: one for one in board[uuid].profiles}
    instances = tuple(
        _exact(one, profiles, file, f"{path}.GpuInstances[{index}]")
        for index, one in enumerate(device.get("GpuInstances") or ())
    )
    return MigEntry(mode=MigMode.ENABLED, gpus=(uuid,), instances=instances)


def _exact(one: Any, profiles: Mapping[int, MigProfile], file: str, path: str) -> MigInstance:
    number = _get(one, "ProfileID", int, file, f"{path}.ProfileID")
    if number not in profiles:
        known = ", ".join(f"{key} ({profile.name})" for key, profile in profiles.items())
        advice = f"expected one of {known}" if known else "the driver lists no profiles until MIG is on"
        raise SpecError((SpecProblem(file, 0, 0, f"{path}.ProfileID", f"there is no profile {number}; {advice}"),))
    placement = _get(one, "Placement", Mapping, file, f"{path}.Placement")
    start = _get(placement, "Start", int, file, f"{path}.Placement.Start")
    numbers = [
        _get(compute, "ProfileID", int, file, f"{path}.ComputeInstances[{index}].ProfileID")
        for index, compute in enumerate(one.get("ComputeInstances") or ())
    ]
    return MigInstance(profile=profiles[number].name, start=start, compute=_compute(numbers))


def _compute(numbers: Sequence[int]) -> Mapping[str, int]:
    widths = Counter(_WIDTHS[number] for number in numbers if 0 <= number < len(_WIDTHS))
    return MappingProxyType({f"{width}c": count for width, count in widths.items() if width})


def _get(document: Any, key: str, kind: Any, file: str, path: str) -> Any:
    value = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(value, kind):
        raise SpecError((SpecProblem(file, 0, 0, path, f"expected {_words(kind)}, found {value!r}"),))
    return value


def _words(kind: Any) -> str:
    return {Mapping: "a mapping", Sequence: "a list", str: "a text", int: "a whole number"}[kind]
