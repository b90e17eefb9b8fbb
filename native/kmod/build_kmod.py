"""Builds nodeagent._kmod, the cffi module on libkmod in API mode: the compiler checks every line of kmod.cdef.h."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path("native", "kmod")  # setuptools wants sources relative to the project root, where the build runs

ffibuilder = FFI()
ffibuilder.cdef((HERE / "kmod.cdef.h").read_text(encoding="ascii"))
ffibuilder.set_source(
    "nodeagent._kmod",
    '#include <libkmod.h>\n#include "kmod_order.h"\n#include "kmod_child.h"\n',
    sources=[str(HERE / "kmod_order.c"), str(HERE / "kmod_child.c")],
    depends=[str(HERE / "kmod_order.h"), str(HERE / "kmod_child.h"), str(HERE / "kmod.cdef.h")],
    include_dirs=[str(HERE)],
    libraries=["kmod"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)
