"""What the child process tries on a GPU: memory, arithmetic, copies between GPUs. What comes back is compared.

The sums are whole numbers below 2^24, which 32-bit floating point holds exactly: the right result is one bit pattern.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from nodeagent.host.cuda_driver import CudaDriver
from nodeagent.host.cuda_kernel import BLOCK, ENTRY, PTX
from nodeagent.state.proofs import Trial, TrialResult

ELEMENTS = (1 << 20) - 7  # not a multiple of a block: the last threads must do nothing
GUARD_BYTES = 4096  # behind the sums; the kernel must not write there
MEMORY_BYTES = 16 << 20
COPIES = 4  # of which the fastest counts
UNTOUCHED = 0xA5


class WrongDataError(Exception):
    """The GPU did what it was told and the bytes are wrong: the worst that can happen."""


def vector(driver: CudaDriver, trial: Trial) -> TrialResult:
    """Memory and arithmetic of one device."""
    device = only(driver, trial.uuids[0])
    with driver.context(device), ExitStack() as stack:
        figures = _memory(driver, stack)
        figures["kernel_seconds"] = _addition(driver, stack)
    figures["memory_total_bytes"] = float(driver.out("size_t", "cuDeviceTotalMem_v2", device))
    version = driver.out("int", "cuDriverGetVersion")
    facts = {"product": driver.name(device), "cuda": f"{version // 1000}.{version % 1000 // 10}"}
    return TrialResult(figures, facts, driver.is_stub)


def only(driver: CudaDriver, uuid: str, ordinal: int = 0) -> Any:
    """The device of this place, which must be the one that was asked for."""
    device = driver.device(ordinal)
    found, wanted = driver.uuid(device), uuid.partition("-")[2].replace("-", "")
    if found != wanted:
        raise WrongDataError(f"the driver gave another device ({found}) than the one asked for")
    return device


def _memory(driver: CudaDriver, stack: ExitStack) -> dict[str, float]:
    """Random bytes to the device, from there to another place on it, and back."""
    data = os.urandom(MEMORY_BYTES)
    here = stack.enter_context(driver.memory(MEMORY_BYTES))
    there = stack.enter_context(driver.memory(MEMORY_BYTES))
    up = _rate(lambda: driver.upload(here, data), MEMORY_BYTES)
    driver.call("cuMemcpyDtoD_v2", there, here, MEMORY_BYTES)
    driver.call("cuCtxSynchronize")
    back = bytearray(MEMORY_BYTES)
    buffer = driver.ffi.from_buffer(back)
    down = _rate(lambda: driver.call("cuMemcpyDtoH_v2", buffer, there, MEMORY_BYTES), MEMORY_BYTES)
    compare(back, data, "memory")
    return {"to_device_bytes_per_second": up, "from_device_bytes_per_second": down}


def _addition(driver: CudaDriver, stack: ExitStack) -> float:
    """Seconds of the kernel, its start included."""
    size = ELEMENTS * 4
    module = driver.out("CUmodule", "cuModuleLoadData", driver.ffi.new("char[]", PTX.encode()))
    function = driver.out("CUfunction", "cuModuleGetFunction", module, ENTRY.encode())
    one, other, total = (stack.enter_context(driver.memory(size + GUARD_BYTES)) for _ in range(3))
    driver.upload(one, array("f", range(ELEMENTS)).tobytes())
    driver.upload(other, array("f", range(1, 2 * ELEMENTS, 2)).tobytes())
    driver.call("cuMemsetD8_v2", total, UNTOUCHED, size + GUARD_BYTES)
    began = time.perf_counter()
    _launch(driver, function, (one, other, total))
    driver.call("cuCtxSynchronize")
    seconds = time.perf_counter() - began
    expected = array("f", range(1, 3 * ELEMENTS, 3)).tobytes() + bytes([UNTOUCHED]) * GUARD_BYTES
    compare(driver.download(total, size + GUARD_BYTES), expected, "sums")
    driver.call("cuModuleUnload", module)
    return seconds


def _launch(driver: CudaDriver, function: Any, vectors: tuple[Any, Any, Any]) -> None:
    ffi = driver.ffi
    cells = [*(ffi.new("CUdeviceptr *", address) for address in vectors), ffi.new("unsigned int *", ELEMENTS)]
    parameters = ffi.new("void *[]", [ffi.cast("void *", cell) for cell in cells])
    blocks = -(-ELEMENTS // BLOCK)
    driver.call("cuLaunchKernel", function, blocks, 1, 1, BLOCK, 1, 1, 0, ffi.NULL, parameters, ffi.NULL)


def peer(driver: CudaDriver, trial: Trial) -> TrialResult:
    """A copy from the first device to the second; over NVLink or PCIe where they reach each other, else by the host."""
    source, target = (only(driver, uuid, place) for place, uuid in enumerate(trial.uuids))
    direct = bool(driver.out("int", "cuDeviceCanAccessPeer", target, source))
    data = os.urandom(MEMORY_BYTES)
    with driver.context(source) as here, driver.memory(MEMORY_BYTES) as origin:
        driver.upload(origin, data)
        with driver.context(target) as there, driver.memory(MEMORY_BYTES) as copy:
            if direct:
                driver.call("cuCtxEnablePeerAccess", here, 0)

            def once() -> None:
                driver.call("cuMemcpyPeer", copy, there, origin, here, MEMORY_BYTES)
                driver.call("cuCtxSynchronize")

            rate = _rate(once, MEMORY_BYTES)
            compare(driver.download(copy, MEMORY_BYTES), data, "copy")
        driver.call("cuCtxSetCurrent", here)
    facts = {"route": "direct" if direct else "host"}
    return TrialResult({"bytes_per_second": rate}, facts, driver.is_stub)


def _rate(copy: Callable[[], None], size_bytes: int) -> float:
    """Bytes per second of the fastest of some copies."""
    times = []
    for _ in range(COPIES):
        began = time.perf_counter()
        copy()
        times.append(time.perf_counter() - began)
    return size_bytes / min(times)


def compare(found: bytes | bytearray, expected: bytes, what: str) -> None:
    """WrongDataError that says where they begin to differ."""
    if found == expected:
        return
    at = next(place for place, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    wrong = sum(one != other for one, other in zip(found, expected, strict=True))
    raise WrongDataError(f"{what}: {wrong} of {len(expected)} bytes are wrong, the first at {at}")
