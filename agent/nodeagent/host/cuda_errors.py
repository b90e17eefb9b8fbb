"""What the CUDA driver's return codes mean to the agent: the one table from CUresult to error class, cause and advice.

Source: CUDA Driver API, enum CUresult, and its descriptions.
"""

from __future__ import annotations

from typing import NamedTuple

from nodeagent.errors import BusyError, DeniedError, GoneError, HostError, UnsupportedError


class Meaning(NamedTuple):
    """The class says who must act; reason and advice are the halves of the message."""

    error: type[HostError]
    reason: str
    advice: str = ""


_SERVICE = "drain the gpu, reset it, and have it serviced if it comes again"
_LIBRARY = "install the user-space libraries of the loaded driver version"

MEANINGS: dict[int, Meaning] = {
    1: Meaning(HostError, "the driver refused an argument"),
    2: Meaning(BusyError, "its memory is full", "see nodeagent top for who has it"),
    3: Meaning(HostError, "the driver is shutting down"),
    34: Meaning(UnsupportedError, "libcuda.so.1 is the CUDA toolkit's stub", "put the driver's own before it"),
    35: Meaning(UnsupportedError, "the loaded driver is older than libcuda.so.1", _LIBRARY),
    36: Meaning(UnsupportedError, "the driver's call was removed", _LIBRARY),
    46: Meaning(BusyError, "another process has it exclusively", "look at its compute mode: nvidia-smi -q -d COMPUTE"),
    100: Meaning(GoneError, "CUDA sees no device", "see nodeagent health, and that nvidia and nvidia_uvm are loaded"),
    101: Meaning(GoneError, "CUDA has no such device"),
    205: Meaning(HostError, "mapping memory failed"),
    209: Meaning(UnsupportedError, "the driver has no translator for this gpu", _LIBRARY),
    214: Meaning(HostError, "an uncorrectable memory error (ECC)", _SERVICE),
    217: Meaning(UnsupportedError, "the gpus cannot reach each other's memory"),
    218: Meaning(UnsupportedError, "the driver refused the kernel", _LIBRARY),
    220: Meaning(HostError, "an uncorrectable NVLink error", _SERVICE),
    221: Meaning(UnsupportedError, "libnvidia-ptxjitcompiler.so.1 was not found", _LIBRARY),
    222: Meaning(UnsupportedError, "the driver is too old for the kernel's PTX version"),
    226: Meaning(HostError, "contained memory error", _SERVICE),
    304: Meaning(DeniedError, "the system refused a call of the driver", "look at the limits of the service"),
    500: Meaning(HostError, "a name was not found in the module"),
    700: Meaning(HostError, "the kernel met an illegal address", _SERVICE),
    702: Meaning(HostError, "the kernel took too long", _SERVICE),
    714: Meaning(HostError, "hardware stack error", _SERVICE),
    719: Meaning(HostError, "the kernel failed", _SERVICE),
    800: Meaning(DeniedError, "not permitted", "run as root, in a container as a privileged one"),
    801: Meaning(UnsupportedError, "not supported by this gpu or its driver"),
    802: Meaning(
        BusyError, "the NVLink fabric is not ready", "see that nvidia-fabricmanager runs, in the same version"
    ),
    803: Meaning(UnsupportedError, "libcuda.so.1 and the loaded driver are of different versions", _LIBRARY),
    804: Meaning(UnsupportedError, "forward compatibility is not for this gpu", "take its libcuda.so.1 away"),
    805: Meaning(BusyError, "the MPS server cannot be reached", "see that nvidia-cuda-mps-control runs"),
    999: Meaning(
        HostError, "the driver cannot be used", "see that nvidia_uvm is loaded and its device nodes are there"
    ),
}


def error_for(call: str, code: int, name: str, subject: str) -> HostError:
    """The error of a call on a GPU; `name` is what the driver itself calls the code, "" if it does not say."""
    meaning = MEANINGS.get(code, Meaning(HostError, "the CUDA driver reports an error", "the kernel log may say more"))
    told = name or f"code {code}"
    return meaning.error("compute on", subject, f"{meaning.reason} ({call}: {told})", meaning.advice)
