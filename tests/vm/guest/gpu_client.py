"""What a client of the GPUs finds through NVML at its start, as JSON on standard output; knows nothing of the agent."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pynvml

if TYPE_CHECKING:
    from collections.abc import Iterator


def mig_devices(gpu: Any) -> Iterator[str]:
    """Names of the MIG devices, without the product's."""
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with suppress(pynvml.NVMLError_NotFound):
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
            yield pynvml.nvmlDeviceGetName(device).split()[-1]


def found() -> dict[str, list[str]]:
    """The MIG devices of each GPU by UUID."""
    pynvml.nvmlInit()
    gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return {pynvml.nvmlDeviceGetUUID(gpu): sorted(mig_devices(gpu)) for gpu in gpus}


if __name__ == "__main__":
    json.dump(found(), sys.stdout)
