"""Builds the native helpers; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# folder of native/ -> library with the driver's own SONAME; libcuda apart, so that a program that is given the NVML
# simulator does not find it by chance
LIBRARIES = {
    "nvml": "nodeagent.simulation.lib.libnvidia-ml",
    "cuda": "nodeagent.simulation.lib.cuda.libcuda",
}


class BuildNative(build_ext):
    """cffi modules as usual, and the stand-ins for NVIDIA's libraries as plain shared libraries with their SONAMEs."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname in LIBRARIES.values() or fullname in ("libnvidia-ml", "libcuda"):  # in place, without its package
            return str(Path(*fullname.split("."))) + ".so.1"
        return super().get_ext_filename(fullname)

    def copy_extensions_to_source(self) -> None:
        """For an editable install; the library's folder holds nothing that is in the repository."""
        Path("agent/nodeagent/simulation/lib/cuda").mkdir(parents=True, exist_ok=True)
        super().copy_extensions_to_source()

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return [] if ext.name in LIBRARIES.values() else super().get_export_symbols(ext)


setup(
    package_dir={"": "agent"},
    cffi_modules=["native/kmod/build_kmod.py:ffibuilder", "native/calls/build_calls.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            library,
            sources=sorted(str(path) for path in Path("native", folder).glob("*.c")),
            depends=sorted(str(path) for path in Path("native", folder).glob("*.h")),
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
            extra_link_args=[f"-Wl,-soname,{library.rpartition('.')[2]}.so.1", "-lpthread"],
        )
        for folder, library in LIBRARIES.items()
    ],
)
