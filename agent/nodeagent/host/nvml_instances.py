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
from nodeagent.state.gpu import Placement


def create(handle: Any, subject: str, profile: str, placement: Placement) -> None:
    """Create a GPU instance at the placement and the compute instance that fills it, or nothing at all.

    UnsupportedError: no such profile or placement on this board. BusyError: no room. HostError: it was not there after.
    """
    operation = f"create instance {profile} at {placement.start}:{placement.size} on"
    with reported(operation, subject):
        info = _profile_info(handle, operation, subject, profile)
        instance = _create_gpu_instance(handle, info, placement, (operation, subject))
        try:
            pynvml.nvmlGpuInstanceCreateComputeInstance(instance, _filling_profile(instance, info).id)
            _verify(handle, operation, subject, (profile, placement))
        except (pynvml.NVMLError, HostError):
            with suppress(pynvml.NVMLError):  # what could not be created is the news, not what could not be removed
                _remove(_find(handle, placement))
            raise


def destroy(handle: Any, subject: str, placement: Placement) -> None:
    """Destroy the GPU instance at the placement, compute instances first. GoneError: none there. BusyError: in use."""
    operation = f"destroy instance at {placement.start}:{placement.size} on"
    with reported(operation, subject):
        found = _find(handle, placement)
        if found is None:
            raise GoneError(operation, subject, "there is no instance at this placement", _occupants(handle))
        if found.value.pids:  # before the first compute instance goes: half a removal helps nobody
            raise in_use(operation, subject, found.value.pids)
        _remove(found)


def in_use(operation: str, subject: str, pids: tuple[int, ...]) -> BusyError:
    """The refusal that names who is in the way, as far as NVML knows them."""
    if not pids:
        return BusyError(operation, subject, "in use by a client that NVML does not list", "see who has it open")
    names = ("process " if len(pids) == 1 else "processes ") + ", ".join(map(str, pids))
    return BusyError(operation, subject, f"in use by {names}", "end the work or wait for it")


def _occupants(handle: Any) -> str:
    """What stands on the GPU now, hidden GPU instances named as such."""
    spans = []
    for instance in nvml_read.live_instances(handle):
        value = instance.value
        hidden = "" if value.compute_instances else " (without compute instance)"
        spans.append(f"{value.profile} at {value.placement.start}:{value.placement.size}{hidden}")
    return "there are: " + ", ".join(spans) if spans else "the gpu has no instances"


def _find(handle: Any, placement: Placement) -> LiveInstance | None:
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
            raise BusyError(*where, "no room on the gpu", _occupants(handle)) from error
        if error.value == nvml_errors.IN_USE:
            raise in_use(*where, nvml_read.processes(handle)) from error
        if error.value == nvml_errors.INVALID_ARGUMENT:
            legal = ", ".join(f"{place.start}:{place.size}" for place in nvml_read.placements(handle, info.id))
            raise UnsupportedError(*where, "not a placement of this profile", f"it can stand at {legal}") from error
        raise


def _filling_profile(instance: Any, gpu_profile: Any) -> Any:
    """The compute instance profile with all SMs of the GPU instance.

    The first one-slice profile will not do: on double-memory profiles (1g.20gb of an H100) a wider one exists.
    """
    wanted = (gpu_profile.multiprocessorCount, gpu_profile.sliceCount)
    infos = nvml_read.compute_profile_infos(instance)
    exact = [info for info in infos if (info.multiprocessorCount, info.sliceCount) == wanted]
    if exact:
        return exact[0]
    fitting = [info for info in infos if info.sliceCount <= gpu_profile.sliceCount]
    if not fitting:
        raise pynvml.NVMLError(nvml_errors.NOT_SUPPORTED)
    return max(fitting, key=lambda info: (info.multiprocessorCount, info.sliceCount))


def _verify(handle: Any, operation: str, subject: str, wanted: tuple[str, Placement]) -> None:
    """Read back what was made: success is what NVML lists, not what it returned."""
    found = _find(handle, wanted[1])
    if found is None or found.value.profile != wanted[0] or len(found.value.compute_instances) != 1:
        raise HostError(operation, subject, "NVML reported success, but the instance is not listed", _occupants(handle))
