"""Creating and destroying MIG instances on one GPU handle: the acts that must not leave half of themselves behind.

Sources: nvml.h (group nvmlMultiInstanceGPU), MIG User Guide.
"""

from __future__ import annotations

from contextlib import suppress
from ctypes import byref
from typing import Any

import pynvml

from nodeagent.errors import BusyError, GoneError, HostError, UnsupportedError
from nodeagent.host import nvml_errors, nvml_read
from nodeagent.host.nvml_errors import reported
from nodeagent.host.nvml_read import LiveInstance
from nodeagent.state.gpu import ComputeProfile, Placement


def create(handle: Any, subject: str, wanted: tuple[str, Placement], compute: tuple[int, ...] = ()) -> None:
    """Create a GPU instance of (profile, placement) and its compute instances, or nothing at all.

    `compute` are widths in compute slices; 0, and no width at all, is the one compute instance that fills it.
    UnsupportedError: no such profile or placement on this board. BusyError: no room. HostError: it was not there after.
    """
    profile, placement = wanted
    operation = f"create instance {profile} at {placement.start}:{placement.size} on"
    with reported(operation, subject):
        info = _profile_info(handle, operation, subject, profile)
        instance = _create_gpu_instance(handle, info, placement, (operation, subject))
        try:
            _fill(instance, info, compute or (0,), (operation, subject))
            _verify(handle, (operation, subject), wanted, len(compute) or 1)
        except (pynvml.NVMLError, HostError):
            with suppress(pynvml.NVMLError):  # what could not be created is the news, not what could not be removed
                _remove(find(handle, placement))
            raise


def destroy(handle: Any, subject: str, placement: Placement) -> None:
    """Destroy the GPU instance at the placement, compute instances first. GoneError: none there. BusyError: in use."""
    operation = f"destroy instance at {placement.start}:{placement.size} on"
    with reported(operation, subject):
        found = find(handle, placement)
        if found is None:
            raise GoneError(operation, subject, "there is no instance at this placement", occupants(handle))
        if found.value.pids:  # before the first compute instance goes: half a removal helps nobody
            raise in_use(operation, subject, found.value.pids)
        _remove(found)


def in_use(operation: str, subject: str, pids: tuple[int, ...]) -> BusyError:
    """The refusal that names who is in the way, as far as NVML knows them."""
    if not pids:
        return BusyError(operation, subject, "in use by a client that NVML does not list", "see who has it open")
    names = ("process " if len(pids) == 1 else "processes ") + ", ".join(map(str, pids))
    return BusyError(operation, subject, f"in use by {names}", "end the work or wait for it")


def occupants(handle: Any) -> str:
    """What stands on the GPU now, hidden GPU instances named as such."""
    spans = []
    for instance in nvml_read.live_instances(handle):
        value = instance.value
        hidden = "" if value.compute_instances else " (without compute instance)"
        spans.append(f"{value.profile} at {value.placement.start}:{value.placement.size}{hidden}")
    return "there are: " + ", ".join(spans) if spans else "the gpu has no instances"


def find(handle: Any, placement: Placement) -> LiveInstance | None:
    """The GPU instance that stands exactly there."""
    return next((found for found in nvml_read.live_instances(handle) if found.value.placement == placement), None)


def _remove(found: LiveInstance | None) -> None:
    if found is None:
        return
    for compute in found.compute_handles:
        pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(found.handle)


def _profile_info(handle: Any, operation: str, subject: str, profile: str) -> Any:
    infos = {nvml_read.profile_name(info): info for info in nvml_read.gpu_profile_infos(handle)}
    if profile not in infos:
        advice = f"it offers {', '.join(infos)}" if infos else "the driver lists no profiles while MIG is off"
        raise UnsupportedError(operation, subject, f"the gpu has no profile {profile}", advice)
    return infos[profile]


def _create_gpu_instance(handle: Any, info: Any, placement: Placement, where: tuple[str, str]) -> Any:
    """NVML answers "no room" for a taken placement, fragmentation and hidden instances alike, so all are named."""
    span = pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
    try:
        return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(handle, info.id, byref(span))
    except pynvml.NVMLError as error:
        if error.value == nvml_errors.INSUFFICIENT_RESOURCES:
            raise BusyError(*where, "no room on the gpu", occupants(handle)) from error
        if error.value == nvml_errors.IN_USE:
            raise in_use(*where, nvml_read.processes(handle)) from error
        if error.value == nvml_errors.INVALID_ARGUMENT:
            legal = ", ".join(f"{place.start}:{place.size}" for place in nvml_read.placements(handle, info.id))
            raise UnsupportedError(*where, "not a placement of this profile", f"it can stand at {legal}") from error
        raise


def _fill(instance: Any, gpu_profile: Any, widths: tuple[int, ...], where: tuple[str, str]) -> None:
    """Create the compute instances at places that leave room for all of them."""
    offered = nvml_read.compute_profiles(instance, gpu_profile)
    name = nvml_read.profile_name(gpu_profile)
    order = sorted(widths, key=lambda width: -(width or 99))
    wanted = [nvml_read.compute_profile(offered, name, width) for width in order]
    if None in wanted:
        advice = f"it offers {', '.join(one.name for one in offered)}"
        raise UnsupportedError(*where, "no such compute instance profile", advice)
    chosen = [one for one in wanted if one is not None]
    if len(chosen) == 1 and chosen[0].fills:
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, chosen[0].profile_id)
        return
    places = _search(chosen, 0)
    if places is None:
        raise BusyError(*where, f"no room for compute instances {', '.join(one.name for one in chosen)}")
    for profile, place in zip(chosen, places, strict=True):
        span = pynvml.c_nvmlComputeInstancePlacement_t(place.start, place.size)
        pynvml.nvmlGpuInstanceCreateComputeInstanceWithPlacement(instance, profile.profile_id, byref(span))


def _search(profiles: list[ComputeProfile], taken: int) -> list[Placement] | None:
    """A place for each, the widest first; depth-first over what the driver allows."""
    if not profiles:
        return []
    for place in profiles[0].placements:
        span = ((1 << place.size) - 1) << place.start
        rest = None if span & taken else _search(profiles[1:], taken | span)
        if rest is not None:
            return [place, *rest]
    return None


def _verify(handle: Any, where: tuple[str, str], wanted: tuple[str, Placement], compute: int) -> None:
    """Read back what was made: success is what NVML lists, not what it returned."""
    found = find(handle, wanted[1])
    if found is None or found.value.profile != wanted[0] or len(found.value.compute_instances) != compute:
        raise HostError(*where, "NVML reported success, but the instance is not listed", occupants(handle))
