"""A module tree below a temporary root, and a kernel that notes what it is asked: for tests of the kmod port."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.host.kmod import LibKmod
from nodeagent.simulation.module_files import ModuleSource
from nodeagent.state.modules import ModuleFile

RELEASE = "6.1.0-test"
GPU_ALIAS = "pci:v000010DEd*sv*sd*bc03sc02i00*"
A_GPU = "pci:v000010DEd000020B0sv000010DEsd0000134Fbc03sc02i00"
SOURCES = (
    ModuleSource(
        "nvidia",
        version="570.1",
        srcversion="A1B2C3",
        license="Dual MIT/GPL",
        softdep="pre: ecdh_generic,ecdsa_generic",  # with a comma, as the open build has it: resolves to nothing
        parameters={"NVreg_EnableResizableBar": "int", "NVreg_RegistryDwords": "charp"},
        exports={"nvidia_p2p_get_pages": 0xAAAA0001},
        aliases=(GPU_ALIAS,),
    ),
    ModuleSource("nvidia_uvm", file_name="nvidia-uvm", imports={"nvidia_p2p_get_pages": 0xAAAA0001}),
    ModuleSource(
        "nvidia_peermem",
        file_name="nvidia-peermem",
        imports={"ib_register_client": 0xBBBB0001, "nvidia_p2p_get_pages": 0xAAAA0001, "_printk": 0x92997ED8},
    ),
    ModuleSource("ib_core", exports={"ib_register_client": 0xBBBB0001}, imports={"compat_init": 7}),
    ModuleSource("mlx_compat", exports={"compat_init": 7}),
    ModuleSource("nouveau", aliases=("pci:v000010DEd*sv*sd*bc03sc*i*",)),
    ModuleSource("early", softdep="pre: mlx_compat post: late"),
    ModuleSource("late"),
    ModuleSource("plain", parameters={"depth": "int"}),
)


@dataclass
class Tree:
    """A root directory with modules and modprobe.d files, and ways to look at it."""

    root: Path

    def configure(self, **files: str) -> None:
        directory = self.root / "etc/modprobe.d"
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / f"{name}.conf").write_text(text)

    def kmod(self, calls: Calls | None = None, deadline_seconds: float = 20) -> LibKmod:
        return LibKmod(str(self.root), RELEASE, calls or Calls(), deadline_seconds)

    def path(self, name: str) -> Path:
        return self.root / "lib/modules" / RELEASE / f"kernel/{name}.ko"

    def log(self, *lines: str) -> None:
        """Append kernel lines as /dev/kmsg would show them."""
        log = self.root / "dev/kmsg"
        log.parent.mkdir(exist_ok=True)
        number = len(log.read_text().splitlines()) if log.exists() else 0
        with log.open("a") as file:
            file.writelines(f"4,{number + step},1000,-;{line}\n" for step, line in enumerate(lines))

    def show_initstate(self, module: str, state: str) -> None:
        directory = self.root / "sys/module" / module
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "initstate").write_text(f"{state}\n")


@dataclass
class Calls:
    """A kernel that notes what it is asked, and refuses when told to."""

    refusal: int = 0
    before_refusing: Callable[[], None] = lambda: None
    inserted: list[tuple[str, str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def insert(self, file: ModuleFile, options: str) -> None:
        self._refuse()
        self.inserted.append((file.name, os.path.basename(file.path), options))

    def remove(self, name: str) -> None:
        self._refuse()
        self.removed.append(name)

    def _refuse(self) -> None:
        if self.refusal:
            self.before_refusing()
            raise OSError(self.refusal, os.strerror(self.refusal))
