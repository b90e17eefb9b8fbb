"""Builds nodeagent._calls, the cffi module that makes many NVML calls in one: the library itself is not linked."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path("native", "calls")  # setuptools wants sources relative to the project root, where the build runs
LAYOUTS = Path("native", "nvml")  # NVML's types, which tests compare with the official header

ffibuilder = FFI()
ffibuilder.cdef((HERE / "calls.cdef.h").read_text(encoding="ascii"))
ffibuilder.set_source(
    "nodeagent._calls",
    '#include "calls.h"\n',
    sources=[str(HERE / "calls.c")],
    depends=[str(HERE / "calls.h"), str(HERE / "calls.cdef.h"), *sorted(map(str, LAYOUTS.glob("abi*.h")))],
    include_dirs=[str(HERE), str(LAYOUTS)],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)
