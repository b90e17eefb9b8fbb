"""Section `sandbox` of the node file: whether functions work for containers or belong to virtual machines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec.keys import key
from nodeagent.spec.names import link_match

GPUS = "gpus"
FUNCTION = r"^([0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]|id:[0-9a-f]{4}:[0-9a-f]{4})$"


class Workload(StrEnum):
    """container: the functions have their own drivers. vm-passthrough: VFIO has them, for virtual machines.
    vm-vgpu: they have their own drivers, of which the GPUs' is a vGPU host driver.
    """

    CONTAINER = "container"
    VM_PASSTHROUGH = "vm-passthrough"
    VM_VGPU = "vm-vgpu"


class VfioDriver(StrEnum):
    """VFIO's driver for any function, and those that know more about one kind of it."""

    VFIO_PCI = "vfio-pci"
    NVGRACE = "nvgrace_gpu_vfio_pci"
    MLX5 = "mlx5_vfio_pci"

    @property
    def module(self) -> str:
        return self.value.replace("-", "_")


@dataclass(frozen=True)
class Sandbox:
    """GPUs and NICs as a whole for virtual machines, and back; `sriov[].driver` does it for virtual functions."""

    workload: Workload = key(
        "What the functions are for; with `labels.follow`, nvidia.com/gpu.workload.config says it.",
        default=Workload.CONTAINER,
        example="vm-passthrough",
    )
    devices: str | tuple[str, ...] = key(
        "`gpus` (every NVIDIA display controller), or a list of PCI addresses and id:VENDOR:DEVICE; sound and USB "
        "functions of the same card go along.",
        default=GPUS,
        example='["0000:21:00.0", "id:15b3:101d"]',
        word=GPUS,
        least_items=1,
        pattern=FUNCTION,
        expected='a PCI address such as "0000:21:00.0", or ids such as "id:15b3:101d"',
        canonical=link_match,
    )
    driver: VfioDriver = key("VFIO's driver for them; its module is loaded.", default=VfioDriver.VFIO_PCI)
