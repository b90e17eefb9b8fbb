"""A simulated node without the GPUs behind NVML: tree, kernel and libkmod, for tests of the kernel alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

import pytest

from nodeagent.host.kmod import LibKmod
from nodeagent.simulation.installation import claim, first_state, install
from nodeagent.simulation.kernel import SimKernel
from nodeagent.simulation.ports import SimulatedFiles
from nodeagent.simulation.profiles import RELEASE, profile
from nodeagent.simulation.tree import render
from nodeagent.state.modules import ModuleFile

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


def start_python(
    program: str, *arguments: str, environment: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Another process that sees this package and these tests, with pipes to talk to it."""
    path = os.pathsep.join(folder for folder in sys.path if folder)
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": path}
    command = [*before, sys.executable, "-c", program, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=variables, **pipes)


def line_from(process: subprocess.Popen[str]) -> str:
    stream: IO[str] | None = process.stdout
    assert stream is not None
    return stream.readline().strip()


def shown(directory: str) -> dict[str, str]:
    """Every file, link and placeholder that the kernel shows, with its text."""
    found = {}
    for root in ("sys", "proc", "dev/infiniband"):
        for folder, names, files in os.walk(os.path.join(directory, root)):
            for name in (*files, *(name for name in names if os.path.islink(os.path.join(folder, name)))):
                path = os.path.join(folder, name)
                found[path[len(directory) :]] = os.readlink(path) if os.path.islink(path) else open_text(path)
    return found


def open_text(path: str) -> str:
    """The content of a file; bytes that are no text, as of a configuration space, stand as surrogates."""
    with open(path, "rb") as file:
        return file.read().decode(errors="surrogateescape")


def assert_consistent(rig: Rig) -> None:
    """The tree on disk is the rendering of the state, file by file."""
    tree = render(rig.kernel.profile, rig.kernel.state, {})
    disk = shown(rig.directory)
    folders = {path for path, entry in tree.items() if entry.folder}
    assert [path for path in folders if not os.path.isdir(rig.directory + path)] == []
    assert set(disk) == {path for path in tree if path.startswith(("/sys", "/proc", "/dev/infiniband"))} - folders
    for path, entry in tree.items():
        if path in disk and entry.node is None:
            assert disk[path] == (entry.link or entry.content.decode(errors="surrogateescape")), path


def errno_of(call: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno or 0


def file_of(rig: Rig, name: str) -> ModuleFile:
    found = rig.kmod.file(name)
    assert found is not None
    return found
