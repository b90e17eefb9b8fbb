"""The controller functions of the NVML simulator library, called through ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from nodeagent.errors import BusyError, GoneError, HostError, UnsupportedError

_ERRORS: dict[int, type[HostError]] = {
    errno.ENODEV: GoneError,
    errno.ENXIO: GoneError,
    errno.ENOENT: GoneError,
    errno.EBUSY: BusyError,
    errno.EOPNOTSUPP: UnsupportedError,
    errno.ENOMEM: BusyError,
    errno.ENOSPC: BusyError,
}


def library_path() -> Path:
    """The simulator library of this package. UnsupportedError if it has not been built."""
    path = Path(__file__).parent / "lib" / "libnvidia-ml.so.1"
    if not path.exists():
        raise UnsupportedError("find", str(path), "not built", "build it with: python setup.py build_ext --inplace")
    return path


def load_library() -> ctypes.CDLL:
    """The library with the signatures of native/nvml/control.h. UnsupportedError if it has not been built."""
    library = ctypes.CDLL(str(library_path()), use_errno=True)
    machine, gpu, text, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32
    big, numbers, out = ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint64)
    signatures: dict[str, tuple[type | None, tuple[type, ...]]] = {
        "nvmlsim_create": (gpu, (text,)),
        "nvmlsim_open": (machine, (text,)),
        "nvmlsim_close": (None, (machine,)),
        "nvmlsim_add_gpu": (gpu, (machine,)),
        "nvmlsim_add_profile": (gpu, (machine, gpu, text, out, numbers, numbers, number)),
        "nvmlsim_finish_gpu": (gpu, (machine, gpu)),
        "nvmlsim_set_number": (gpu, (machine, gpu, text, big)),
        "nvmlsim_set_text": (gpu, (machine, gpu, text, text)),
        "nvmlsim_get_number": (gpu, (machine, gpu, text, out)),
        "nvmlsim_get_text": (text, (machine, gpu, text)),
        "nvmlsim_set_driver_loaded": (gpu, (machine, gpu)),
        "nvmlsim_start_process": (gpu, (machine, gpu, number, text, big, text)),
        "nvmlsim_end_process": (None, (machine, number)),
        "nvmlsim_set_load": (gpu, (machine, gpu, number)),
        "nvmlsim_reset": (gpu, (machine, gpu)),
        "nvmlsim_reboot": (gpu, (machine,)),
        "nvmlsim_fault": (gpu, (machine, gpu, text, number, number, number)),
        "nvmlsim_clear_faults": (None, (machine,)),
        "nvmlsim_lose": (gpu, (machine, gpu, gpu)),
        "nvmlsim_link_errors": (gpu, (machine, gpu, number, number, big)),
        "nvmlsim_event": (gpu, (machine, gpu, big, big, text)),
        "nvmlsim_ecc": (gpu, (machine, gpu, gpu, gpu, big)),
        "nvmlsim_recovery": (gpu, (machine, gpu, number)),
        "nvmlsim_mig_row": (gpu, (machine, gpu, number, numbers, text, text, ctypes.c_size_t)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def library_error(operation: str, subject: str, advice: str = "") -> HostError:
    """What the errno of the call just made means: GoneError, BusyError, UnsupportedError or a plain HostError."""
    code = ctypes.get_errno()
    return _ERRORS.get(code, HostError)(operation, subject, os.strerror(code).lower(), advice)
