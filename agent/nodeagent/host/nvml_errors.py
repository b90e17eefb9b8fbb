"""What NVML's return codes mean to the agent: the one table from nvmlReturn_t to error class, cause and advice.

Source: nvml.h, enum nvmlReturn_enum; how the driver uses the codes around MIG: the MIG User Guide and nvml.h,
group nvmlMultiInstanceGPU.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pynvml

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
CORRUPTED_INFOROM = 14
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INSUFFICIENT_RESOURCES = 23


class Meaning(NamedTuple):
    """The class says who must act; reason and advice are the halves of the message."""

    error: type[HostError]
    reason: str
    advice: str = ""


_UNKNOWN = Meaning(HostError, "the driver reports an internal error", "the kernel log may say more (NVRM, Xid)")

MEANINGS: dict[int, Meaning] = {
    UNINITIALIZED: Meaning(GoneError, "the NVML session is closed"),
    INVALID_ARGUMENT: Meaning(HostError, "the driver refused an argument", "a handle or profile may be outdated"),
    NOT_SUPPORTED: Meaning(UnsupportedError, "not supported by this gpu, its mode or its driver"),
    NO_PERMISSION: Meaning(
        DeniedError,
        "permission denied",
        "run as root with CAP_SYS_ADMIN; in a container also pass the MIG config capability",
    ),
    NOT_FOUND: Meaning(GoneError, "not found"),
    8: Meaning(HostError, "external power is not attached", "check the power cables of the board"),
    9: Meaning(GoneError, "the nvidia driver is not loaded", "load module nvidia"),
    10: Meaning(DeadlineError, "the driver gave up waiting for the gpu"),
    11: Meaning(HostError, "the kernel found an interrupt problem with the gpu", "see the kernel log"),
    12: Meaning(
        GoneError, "libnvidia-ml.so.1 was not found", "install the user-space libraries of the loaded driver version"
    ),
    FUNCTION_NOT_FOUND: Meaning(UnsupportedError, "the NVML library lacks this function", "a newer driver has it"),
    CORRUPTED_INFOROM: Meaning(HostError, "the InfoROM is corrupt", "have the board serviced"),
    15: Meaning(GoneError, "the gpu is lost: it fell off the bus", "power-cycle the node; look for Xid 79"),
    RESET_REQUIRED: Meaning(UnsupportedError, "the gpu needs a reset", "reset it once it is idle, or reboot"),
    17: Meaning(DeniedError, "blocked by the operating system", "allow the NVIDIA device nodes in the device cgroup"),
    18: Meaning(
        UnsupportedError,
        "the NVML library and the loaded driver differ in version",
        "the driver was updated but not reloaded: reload it or reboot",
    ),
    IN_USE: Meaning(BusyError, "in use by another client"),
    20: Meaning(HostError, "out of memory"),
    21: Meaning(UnsupportedError, "the driver has no data"),
    INSUFFICIENT_RESOURCES: Meaning(BusyError, "no room on the gpu"),
    25: Meaning(UnsupportedError, "the driver does not know this structure version", "a newer driver does"),
    27: Meaning(BusyError, "the driver is not ready yet"),
    28: Meaning(GoneError, "there is no such gpu"),
    29: Meaning(BusyError, "the gpu is in a state that does not allow this"),
    30: Meaning(UnsupportedError, "this kind of reset is not supported"),
    999: _UNKNOWN,
}


def is_absence(code: int) -> bool:
    """Whether the code says that this board, driver, mode or privilege does not offer the value: not a fault."""
    return code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND, NO_PERMISSION, 21, 25)


def host_error(code: int, operation: str, subject: str) -> HostError:
    """The error for one NVML return code, to be raised by the caller."""
    error, reason, advice = MEANINGS.get(code, Meaning(HostError, f"NVML error {code}", _UNKNOWN.advice))
    return error(operation, subject, reason, advice)


@contextmanager
def reported(operation: str, subject: str) -> Iterator[None]:
    """Turn whatever NVML raises inside into the HostError kind that its code stands for."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise host_error(error.value, operation, subject) from error
