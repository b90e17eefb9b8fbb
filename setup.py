"""Builds the native helpers; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SIMULATOR = "nodeagent.simulation.lib.libnvidia-ml"


class BuildNative(build_ext):
    """cffi modules as usual, and the NVML simulator as a plain shared library with NVML's own SONAME."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("libnvidia-ml"):
            return str(Path(*fullname.split(".")).with_name("libnvidia-ml.so.1"))
        return super().get_ext_filename(fullname)

    def copy_extensions_to_source(self) -> None:
        """For an editable install; the library's folder holds nothing that is in the repository."""
        Path("agent/nodeagent/simulation/lib").mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return [] if ext.name == SIMULATOR else super().get_export_symbols(ext)


setup(
    package_dir={"": "agent"},
    cffi_modules=["native/kmod/build_kmod.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            SIMULATOR,
            sources=sorted(str(path) for path in Path("native/nvml").glob("*.c")),
            depends=sorted(str(path) for path in Path("native/nvml").glob("*.h")),
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
            extra_link_args=["-Wl,-soname,libnvidia-ml.so.1", "-lpthread"],
        ),
    ],
)
