"""Libraries beside libcuda that are opened to see that they work: libgdrapi and libcufile.

Sources: NVIDIA/gdrcopy include/gdrapi.h (gdr_open is NULL where /dev/gdrdrv cannot be used); GPUDirect Storage API
reference (cuFileDriverOpen returns {CUfileOpError, CUresult}, 0 for success, 5001 where nvidia-fs is not there).
"""

from __future__ import annotations

import os
from typing import Any

import cffi

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.state.proofs import TrialResult

GDRCOPY_LIBRARY = "libgdrapi.so.2"
GDS_LIBRARY = "libcufile.so.0"
_GDRCOPY = "void *gdr_open(void); int gdr_close(void *handle); extern const char nodeagent_cuda_stub[];"
_GDS = """
typedef struct { int err; int cu_err; } CUfileError_t;
CUfileError_t cuFileDriverOpen(void);
CUfileError_t cuFileDriverClose_v2(void);
extern const char nodeagent_cuda_stub[];
"""
_COMPAT = "CUFILE_ALLOW_COMPAT_MODE"  # else the library would say yes without nvidia-fs, and go through host memory


def open_gdrcopy(library: str) -> TrialResult:
    """Open and close it. UnsupportedError without the library, HostError where it refuses."""
    name = library or GDRCOPY_LIBRARY
    found = _loaded(name, _GDRCOPY, "gdrcopy", "install libgdrapi")
    handle = found.gdr_open()
    if not handle:
        raise HostError("open", "gdrcopy", "gdr_open failed", "see that gdrdrv is loaded and /dev/gdrdrv may be opened")
    found.gdr_close(handle)
    return _result(name, found)


def open_gds(library: str) -> TrialResult:
    """Open and close its driver. UnsupportedError without the library, HostError where it refuses."""
    os.environ[_COMPAT] = "false"
    name = library or GDS_LIBRARY
    found = _loaded(name, _GDS, "gpudirect storage", "install libcufile")
    result = found.cuFileDriverOpen()
    if result.err:
        reason = f"cuFileDriverOpen failed with {result.err}, CUDA code {result.cu_err}"
        raise HostError("open", "gpudirect storage", reason, "see nvidia_fs in the kernel log, and gdscheck -p")
    found.cuFileDriverClose_v2()
    return _result(name, found)


def _loaded(name: str, declarations: str, subject: str, advice: str) -> Any:
    """The library with these functions. UnsupportedError where there is none."""
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    try:
        return ffi.dlopen(name)
    except OSError as error:
        raise UnsupportedError("open", subject, f"{name} was not found", advice) from error


def _result(name: str, library: Any) -> TrialResult:
    return TrialResult({}, {"library": os.path.basename(name)}, hasattr(library, "nodeagent_cuda_stub"))
