"""Creating and destroying compute instances inside a GPU instance.

Sources: nvml.h (group nvmlMultiInstanceGPU), MIG User Guide (compute instances).
"""

from __future__ import annotations

from contextlib import suppress
from ctypes import byref
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.errors import BusyError, GoneError, HostError, UnsupportedError
from nodeagent.host import nvml_errors, nvml_read
from nodeagent.host.nvml_errors import reported
from nodeagent.host.nvml_instances import find, in_use, occupants

if TYPE_CHECKING:
    from nodeagent.host.nvml_read import LiveInstance
    from nodeagent.state.gpu import ComputeProfile, Placement


def create(handle: Any, subject: str, placement: Placement, wanted: tuple[int, Placement]) -> None:
    """Create a compute instance of (width, place), both in compute slices; a width of 0 is the one that fills.

    GoneError: no GPU instance at `placement`. UnsupportedError: no such profile or place in it. BusyError: no room.
    """
    width, place = wanted
    operation = f"create compute instance at {place.start}:{place.size} of instance {placement.start} on"
    with reported(operation, subject):
        found = _found(handle, operation, subject, placement)
        profile = _profile(found, width, place)
        if profile is None:
            raise UnsupportedError(operation, subject, "the instance does not offer this", _offers(found))
        span = pynvml.c_nvmlComputeInstancePlacement_t(place.start, place.size)
        try:
            made = pynvml.nvmlGpuInstanceCreateComputeInstanceWithPlacement(
                found.handle, profile.profile_id, byref(span)
            )
        except pynvml.NVMLError as error:
            if error.value == nvml_errors.INSUFFICIENT_RESOURCES:
                raise BusyError(operation, subject, "no room in the instance", occupants(handle)) from error
            raise
        if place not in _places(_found(handle, operation, subject, placement)):
            with suppress(pynvml.NVMLError):
                pynvml.nvmlComputeInstanceDestroy(made)
            raise HostError(operation, subject, "NVML reported success, but the compute instance is not listed")


def destroy(handle: Any, subject: str, placement: Placement, place: Placement) -> None:
    """Destroy the compute instance at `place`. GoneError: there is none. BusyError: processes run on it."""
    operation = f"destroy compute instance at {place.start}:{place.size} of instance {placement.start} on"
    with reported(operation, subject):
        found = _found(handle, operation, subject, placement)
        if place not in _places(found):
            raise GoneError(operation, subject, "there is no compute instance at this place")
        index = _places(found).index(place)
        pids = found.value.compute_instances[index].pids
        if pids:
            raise in_use(operation, subject, pids)
        try:
            pynvml.nvmlComputeInstanceDestroy(found.compute_handles[index])
        except pynvml.NVMLError as error:
            if error.value == nvml_errors.IN_USE:
                raise in_use(operation, subject, ()) from error
            raise


def _found(handle: Any, operation: str, subject: str, placement: Placement) -> LiveInstance:
    found = find(handle, placement)
    if found is None:
        raise GoneError(operation, subject, "there is no GPU instance at this placement", occupants(handle))
    return found


def _places(found: LiveInstance) -> list[Placement]:
    return [one.placement for one in found.value.compute_instances]


def _profile(found: LiveInstance, width: int, place: Placement) -> ComputeProfile | None:
    """The profile of this width, if it can stand there."""
    offered = tuple(one for one in found.value.compute_profiles if place in one.placements)
    return nvml_read.compute_profile(offered, found.value.profile, width)


def _offers(found: LiveInstance) -> str:
    places = (
        f"{one.name} at {', '.join(str(place.start) for place in one.placements)}"
        for one in found.value.compute_profiles
    )
    return "it offers " + "; ".join(places)
