"""A simulated node without the GPUs behind NVML: tree, kernel and libkmod, for tests of the kernel alone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import IO

from nodeagent.host.kmod import LibKmod
from nodeagent.simulation.installation import claim, first_state, install
from nodeagent.simulation.kernel import SimKernel
from nodeagent.simulation.ports import SimulatedFiles
from nodeagent.simulation.profiles import RELEASE, profile

GPU_STACK = ("nvidia", "nvidia_uvm", "nvidia_peermem", "gdrdrv")


@dataclass(frozen=True)
class Rig:
    kernel: SimKernel
    kmod: LibKmod
    files: SimulatedFiles

    @property
    def directory(self) -> str:
        return self.kernel.directory

    def load(self, *names: str) -> None:
        """What modprobe would do for each name."""
        for name in names:
            for file in self.kmod.lookup(name):
                if file.name not in self.kernel.state.modules:
                    self.kmod.load(file.name, file.options)

    def log(self) -> tuple[str, ...]:
        return tuple(line.text for line in self.kernel.state.log)


def make_rig(directory: object, name: str = "dgx-a100") -> Rig:
    place = os.path.realpath(str(directory))
    wanted = profile(name)
    claim(wanted, place)
    install(wanted, place)
    return open_rig(place, name)


def open_rig(place: str, name: str = "dgx-a100") -> Rig:
    kernel = SimKernel(place, profile(name), {})
    kernel.boot(first_state(kernel.profile))
    return Rig(kernel, LibKmod(place, RELEASE, kernel), SimulatedFiles(kernel))


def start_python(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that sees this package and these tests, with pipes to talk to it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", program, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def line_from(process: subprocess.Popen[str]) -> str:
    stream: IO[str] | None = process.stdout
    assert stream is not None
    return stream.readline().strip()
