"""Reading GPUs through NVML: pure look-ups on handles that the caller opened; nothing is kept between calls.

Handles of GPU and compute instances die with the instance and may be reused by the driver, so none leaves this module
except to be used at once. All functions raise pynvml.NVMLError; the session turns it into a HostError.

Sources: nvml.h (group nvmlMultiInstanceGPU), MIG User Guide.
"""

from __future__ import annotations

from ctypes import byref, c_uint
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.state.gpu import (
    ComputeInstance,
    ComputeProfile,
    Gpu,
    GpuInstance,
    MediaEngines,
    MigMode,
    MigProfile,
    Placement,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIELD_RESETLESS_MIG = 184  # NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED
_PROFILE_ENUM_END = 64  # far above NVML_GPU_INSTANCE_PROFILE_COUNT, which grows with every board family
_INSTANCES_MAX = 16  # above any instanceCount; some drivers report too small a count for A30
_ABSENT = (nvml_errors.NOT_SUPPORTED, nvml_errors.FUNCTION_NOT_FOUND, nvml_errors.NO_PERMISSION, 21, 25)
_FABRIC_COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
_MODES = {0: MigMode.DISABLED, 1: MigMode.ENABLED}


class LiveInstance(NamedTuple):
    """A GPU instance with the handle to change it, valid until anything on this GPU changes."""

    handle: Any
    value: GpuInstance
    compute_handles: tuple[Any, ...]


def optional(read: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML says, None where this board, driver or privilege does not offer it."""
    try:
        return read(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _ABSENT:
            return None
        raise


def pci_address(info: Any) -> str:
    """PCI address as the kernel writes it, `0000:3b:00.0`; NVML has an eight-digit upper-case domain."""
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def mig_modes(handle: Any) -> tuple[MigMode, MigMode]:
    """Current and pending MIG mode; they differ while a change waits for a reset."""
    modes = optional(pynvml.nvmlDeviceGetMigMode, handle)
    if modes is None:
        return MigMode.UNSUPPORTED, MigMode.UNSUPPORTED
    return _MODES[modes[0]], _MODES[modes[1]]


def processes(handle: Any) -> tuple[int, ...]:
    """PIDs of compute and graphics processes on a GPU or MIG device, empty without the privilege to see them."""
    compute = optional(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) or ()
    graphics = optional(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, handle) or ()
    return tuple(sorted({process.pid for process in (*compute, *graphics)}))


def _walk(profile_info: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
    """Profile infos by rising enum until the enum ends; NOT_SUPPORTED is a hole, or MIG off on old drivers."""
    for number in range(_PROFILE_ENUM_END):
        try:
            yield number, profile_info(number)
        except pynvml.NVMLError as error:
            if error.value in (nvml_errors.INVALID_ARGUMENT, nvml_errors.FUNCTION_NOT_FOUND):
                return
            if error.value != nvml_errors.NOT_SUPPORTED:
                raise


def profile_name(info: Any) -> str:
    """The driver's own profile name without its prefix: `MIG 1g.5gb+me` is `1g.5gb+me`."""
    return str(info.name).removeprefix("MIG ")


def _numbered_profile_infos(handle: Any) -> tuple[tuple[int, Any], ...]:
    return tuple(_walk(lambda number: pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, number)))


def gpu_profile_infos(handle: Any) -> tuple[Any, ...]:
    """NVML's GPU instance profiles of a GPU; empty where the driver cannot list them while MIG is off."""
    return tuple(info for _, info in _numbered_profile_infos(handle))


def compute_profile_infos(instance: Any) -> tuple[Any, ...]:
    """NVML's compute instance profiles of a GPU instance, for the shared engine profile (0, the only one)."""
    read = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
    return tuple(info for _, info in _walk(lambda number: read(instance, number, 0)))


def placements(handle: Any, profile_id: int) -> tuple[Placement, ...]:
    """Every legal placement of a profile, whether free or not; empty without the privilege to ask."""
    return _placements(
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements, handle, profile_id, pynvml.c_nvmlGpuInstancePlacement_t
    )


def compute_placements(instance: Any, profile_id: int) -> tuple[Placement, ...]:
    """Every legal placement of a compute instance profile in a GPU instance, in compute slices; empty as above."""
    ask = pynvml.nvmlGpuInstanceGetComputeInstancePossiblePlacements
    return _placements(ask, instance, profile_id, pynvml.c_nvmlComputeInstancePlacement_t)


def _placements(ask: Callable[..., Any], parent: Any, profile_id: int, kind: Any) -> tuple[Placement, ...]:
    count = c_uint(0)
    if optional(ask, parent, profile_id, None, byref(count)) is None or not count.value:
        return ()
    found = (kind * count.value)()
    ask(parent, profile_id, found, byref(count))
    return tuple(sorted(Placement(place.start, place.size) for place in found[: count.value]))


def compute_profiles(instance: Any, gpu_profile: Any, infos: tuple[Any, ...] = ()) -> tuple[ComputeProfile, ...]:
    """What a GPU instance offers; `infos` are its profile infos where the caller has them already.

    The profile with all multiprocessors of the GPU instance fills it. The first one-slice profile need not: on
    double-memory profiles (1g.20gb of an H100) a wider one exists.
    """
    infos = infos or compute_profile_infos(instance)
    fitting = [info for info in infos if info.sliceCount <= gpu_profile.sliceCount]
    most = max(((info.multiprocessorCount, info.sliceCount) for info in fitting), default=(0, 0))
    return tuple(
        ComputeProfile(
            profile_name(info),
            info.id,
            info.sliceCount,
            (info.multiprocessorCount, info.sliceCount) == most,
            compute_placements(instance, info.id),
        )
        for info in fitting
    )


def compute_profile(offered: tuple[ComputeProfile, ...], name: str, width: int) -> ComputeProfile | None:
    """The profile of this width in a GPU instance of profile `name`; a width of 0 is one that fills.

    Where two would do, the one with the name of the GPU instance is the filling one, the other the narrow one.
    """
    fitting = [one for one in offered if (one.fills if width == 0 else one.slice_count == width)]
    return max(fitting, key=lambda one: (one.name == name) == (width == 0), default=None)


def mig_profile(handle: Any, info: Any, enumerator: int) -> MigProfile:
    return MigProfile(
        name=profile_name(info),
        profile_id=info.id,
        slice_count=info.sliceCount,
        instance_count=info.instanceCount,
        memory_mib=info.memorySizeMB,  # nvml.h says MB and means MiB
        placements=placements(handle, info.id),
        enumerator=enumerator,
        media=MediaEngines(info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount),
        multiprocessors=info.multiprocessorCount,
        copy_engines=info.copyEngineCount,
    )


def _handles(read: Callable[..., Any], parent: Any, profile_id: int, kind: Any) -> list[Any]:
    """NVML lists instances one profile at a time into a buffer of the caller."""
    buffer, count = (kind * _INSTANCES_MAX)(), c_uint(_INSTANCES_MAX)
    try:
        read(parent, profile_id, buffer, byref(count))
    except pynvml.NVMLError as error:
        # A missing privilege is not "none there": planning on it would create what already exists.
        if error.value == nvml_errors.NOT_SUPPORTED:
            return []
        raise
    return list(buffer[: count.value])


def _compute_instances(instance: Any, infos: tuple[Any, ...]) -> Iterator[tuple[Any, ComputeInstance]]:
    for info in infos:
        read = pynvml.nvmlGpuInstanceGetComputeInstances
        for handle in _handles(read, instance, info.id, pynvml.c_nvmlComputeInstance_t):
            found = pynvml.nvmlComputeInstanceGetInfo(handle)
            uuid = pynvml.nvmlDeviceGetUUID(found.device)  # found.device is the MIG device itself
            place = Placement(found.placement.start, found.placement.size)
            yield handle, ComputeInstance(profile_name(info), found.id, uuid, processes(found.device), place)


def _live_instance(handle: Any, profile: Any) -> LiveInstance:
    found = pynvml.nvmlGpuInstanceGetInfo(handle)
    infos = compute_profile_infos(handle)
    computes = tuple(_compute_instances(handle, infos))
    value = GpuInstance(
        profile=profile_name(profile),
        profile_id=found.profileId,
        placement=Placement(found.placement.start, found.placement.size),
        gi_id=found.id,
        compute_instances=tuple(instance for _, instance in computes),
        compute_profiles=compute_profiles(handle, profile, infos),
    )
    return LiveInstance(handle, value, tuple(compute for compute, _ in computes))


def live_instances(handle: Any) -> tuple[LiveInstance, ...]:
    """Every GPU instance by placement, also those without a compute instance, which users cannot see."""
    found = [
        _live_instance(instance, info)
        for info in gpu_profile_infos(handle)
        for instance in _handles(pynvml.nvmlDeviceGetGpuInstances, handle, info.id, pynvml.c_nvmlGpuInstance_t)
    ]
    return tuple(sorted(found, key=lambda instance: instance.value.placement))


def _is_resetless(handle: Any) -> bool:
    """Whether the MIG mode changes without a reset; never judged by the product name."""
    values = optional(pynvml.nvmlDeviceGetFieldValues, handle, [_FIELD_RESETLESS_MIG])
    return values is not None and values[0].nvmlReturn == 0 and bool(values[0].value.uiVal)


def read_gpu(handle: Any, index: int) -> Gpu:
    """The whole state of one GPU; `index` is NVML's, which may change with any reset."""
    current, pending = mig_modes(handle)
    has_mig = current is not MigMode.UNSUPPORTED
    minor = optional(pynvml.nvmlDeviceGetMinorNumber, handle)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        minor=index if minor is None else minor,
        pci_address=pci_address(pci),
        product=pynvml.nvmlDeviceGetName(handle),
        memory_total_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        mig_mode=current,
        pending_mig_mode=pending,
        resetless_mig=has_mig and _is_resetless(handle),
        profiles=_mig_profiles(handle) if has_mig else (),
        instances=_instances(handle) if current is MigMode.ENABLED else (),
        pids=processes(handle),
        pci_device_id=pci.pciDeviceId,
        pci_subsystem_id=pci.pciSubSystemId,
        compute_capability=optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle) or (0, 0),
        cuda_version=_cuda_version(),
        fabric=_fabric(handle),
        **_board(handle),
    )


def _board(handle: Any) -> dict[str, Any]:
    """What is told of the board and its firmware; what it lacks, or an InfoROM that is corrupt, is left out."""
    objects = pynvml.nvmlDeviceGetInforomVersion
    found = {
        "vbios": _text(pynvml.nvmlDeviceGetVbiosVersion, handle),
        "inforom": _text(pynvml.nvmlDeviceGetInforomImageVersion, handle),
        "inforom_oem": _text(objects, handle, pynvml.NVML_INFOROM_OEM),
        "inforom_ecc": _text(objects, handle, pynvml.NVML_INFOROM_ECC),
        "inforom_power": _text(objects, handle, pynvml.NVML_INFOROM_POWER),
        "nvml_version": _text(pynvml.nvmlSystemGetNVMLVersion),
        "serial": _text(pynvml.nvmlDeviceGetSerial, handle),
    }
    return found | {"brand": optional(pynvml.nvmlDeviceGetBrand, handle)}


def _text(read: Callable[..., Any], *arguments: Any) -> str:
    """For display only: what cannot be read of it must not cost the GPU."""
    try:
        return optional(read, *arguments) or ""
    except pynvml.NVMLError as error:
        if error.value != nvml_errors.CORRUPTED_INFOROM:
            raise
        return ""


def _mig_profiles(handle: Any) -> tuple[MigProfile, ...]:
    return tuple(mig_profile(handle, info, number) for number, info in _numbered_profile_infos(handle))


def _instances(handle: Any) -> tuple[GpuInstance, ...]:
    indices = _mig_indices(handle)
    return tuple(_numbered(instance.value, indices) for instance in live_instances(handle))


def _numbered(instance: GpuInstance, indices: dict[str, int]) -> GpuInstance:
    computes = (replace(one, index=indices.get(one.uuid, -1)) for one in instance.compute_instances)
    return replace(instance, compute_instances=tuple(computes))


def _mig_indices(handle: Any) -> dict[str, int]:
    """NVML's index of each MIG device by UUID; a device keeps its own when another goes, so that there are holes."""
    found: dict[str, int] = {}
    for index in range(optional(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError as error:
            if error.value not in (nvml_errors.NOT_FOUND, nvml_errors.INVALID_ARGUMENT, *_ABSENT):
                raise
        else:
            found[pynvml.nvmlDeviceGetUUID(device)] = index
    return found


def _cuda_version() -> tuple[int, int]:
    """12040 is 12.4 (cuda.h, CUDA_VERSION)."""
    number = optional(pynvml.nvmlSystemGetCudaDriverVersion_v2) or 0
    return number // 1000, number % 1000 // 10


def _fabric(handle: Any) -> str:
    """CLUSTERUUID.CLIQUE once the GPU has joined a fabric that has a cluster (nvmlDeviceGetGpuFabricInfo)."""
    info = pynvml.c_nvmlGpuFabricInfo_t()
    if optional(pynvml.nvmlDeviceGetGpuFabricInfo, handle, byref(info)) is None or info.state != _FABRIC_COMPLETED:
        return ""
    cluster = bytes(info.clusterUuid)
    return f"{UUID(bytes=cluster)}.{info.cliqueId}" if any(cluster) else ""
