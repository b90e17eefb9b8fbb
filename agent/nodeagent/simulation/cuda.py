"""The stub of libcuda for a simulated node: which devices it has, and what is wrong with them.

Source of the variables: native/cuda. Faults can also be given from outside with NODEAGENT_CUDA_FAULTS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nodeagent.errors import UnsupportedError
from nodeagent.host import paths
from nodeagent.host.cuda import CudaLaunch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.machine import Machine

DEVICES, DEVICE_DIRECTORY, FAULTS = "NODEAGENT_CUDA_DEVICES", "NODEAGENT_CUDA_DEV", "NODEAGENT_CUDA_FAULTS"
_MEMORY_BYTES = 4 << 30  # the stub takes what is used of it from the host
_WITHOUT_UVM = "cuInit=999"  # CUDA_ERROR_UNKNOWN, which CUDA says without /dev/nvidia-uvm


def stub_path() -> Path:
    """The stub of this package. UnsupportedError if it has not been built."""
    path = Path(__file__).parent / "lib" / "cuda" / "libcuda.so.1"
    if not path.exists():
        raise UnsupportedError("find", str(path), "not built", "build it with: python setup.py build_ext --inplace")
    return path


def cuda_launch(directory: str, state: KernelState, machine: Machine) -> CudaLaunch:
    """The stub with the devices that the node in this directory has now."""
    devices = ";".join(_devices(machine)) if machine.driver_loaded else ""
    faults = os.environ.get(FAULTS, "")
    if "nvidia_uvm" not in state.modules:
        faults = ",".join(filter(None, (_WITHOUT_UVM, faults)))
    environment = {DEVICES: devices, DEVICE_DIRECTORY: directory + paths.DEV, FAULTS: faults}
    return CudaLaunch(str(stub_path()), environment)


def _devices(machine: Machine) -> Iterator[str]:
    for gpu in machine.gpus:
        layout = machine.mig_layout(gpu.uuid)
        if not layout.enabled:
            yield f"{gpu.uuid}|{gpu.product}|{_MEMORY_BYTES}"
        for row in layout.rows:
            if row.uuid:
                yield f"{row.uuid}|{gpu.product} MIG {row.profile}|{_MEMORY_BYTES}"
