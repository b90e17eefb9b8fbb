"""Container runtimes on this machine: their versions, their own opinion of a configuration, their units."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from nodeagent.errors import DeadlineError, UnsupportedError
from nodeagent.host.mounted_files import MountedFiles
from nodeagent.host.paths import SYSTEM_PROGRAMS
from nodeagent.host.programs import run_program
from nodeagent.host.services import Systemd

PROGRAMS: Mapping[str, str] = {"containerd": "containerd", "crio": "crio", "docker": "dockerd", "podman": "podman"}
UNITS: Mapping[str, str] = {"containerd": "containerd.service", "crio": "crio.service", "docker": "docker.service"}
# How a program reads a configuration without acting on it.
TRIALS: Mapping[str, tuple[str, ...]] = {
    "containerd": ("--config", "{}", "config", "dump"),
    "docker": ("--validate", "--config-file", "{}"),
}
# What the program says of a configuration that it does not understand; any other failure is not about it.
_UNKNOWN_OPTION = re.compile(r"unknown flag|flag provided but not defined")
_VERSION = re.compile(r"\bv?(\d+\.\d+[^\s,]*)")
DEADLINE_SECONDS = 30.0


class LocalRuntimes:
    """`ports.ContainerRuntimes`. `path` is where programs are looked for, by default as the shell does.

    In a container `host_root` is where the node's root directory is mounted: programs are the node's own and run there,
    by `enter`, which needs CAP_SYS_CHROOT. The folders of their configuration must be mounted at their own places.
    """

    def __init__(
        self, services: Systemd, path: str | None = None, host_root: str = "", enter: tuple[str, ...] = ("chroot",)
    ) -> None:
        self._services = services
        self._path = os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM_PROGRAMS)) if path is None else path
        self._seen = MountedFiles("/", host_root) if host_root else None
        self._enter = (*enter, host_root) if host_root else ()
        self._versions: dict[tuple[str, int], str] = {}

    def version(self, name: str) -> str:
        program = self._program(name)
        if program is None:
            return ""
        key = (program, self._changed(program))
        if key not in self._versions:
            self._versions[key] = parse_version(self._run([program, "--version"]).stdout)
        return self._versions[key]

    def is_active(self, name: str) -> bool:
        return any(found.active for found in self._services.show((UNITS[name],))) if name in UNITS else False

    def verify(self, name: str, path: str, text: str) -> None:
        """As the port says; the text is tried under another name in the temporary directory, or beside the file where
        the node has another one.
        """
        program, trial = self._program(name), TRIALS.get(name)
        if program is None or trial is None:
            return
        folder, kind = (os.path.dirname(path), ".trial") if self._seen else (None, os.path.basename(path))
        if folder:
            os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=kind, dir=folder, encoding="utf-8") as file:
            file.write(text)
            file.flush()
            done = self._run([program, *(part.format(file.name) for part in trial)])
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        if done.returncode and not any(_UNKNOWN_OPTION.search(line) for line in said):
            raise UnsupportedError("verify", path, f"{name} refuses it: {said[-1] if said else 'no reason given'}")

    def restart(self, name: str) -> None:
        self._services.restart(UNITS[name])

    def reload(self, name: str) -> None:
        self._services.reload(UNITS[name])

    def _program(self, name: str) -> str | None:
        if self._seen is None:
            return shutil.which(PROGRAMS[name], path=self._path)
        places = (f"{folder}/{PROGRAMS[name]}" for folder in dict.fromkeys(self._path.split(os.pathsep)) if folder)
        return next((place for place in places if self._seen.exists(place)), None)

    def _changed(self, program: str) -> int:
        """When the program last changed, in nanoseconds since the epoch."""
        return os.stat(self._seen.place(program) if self._seen else program).st_mtime_ns

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return run_program((*self._enter, *command), DEADLINE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DeadlineError("run", command[0], f"no answer within {DEADLINE_SECONDS:g} s") from error


def parse_version(text: str) -> str:
    """`1.7.24~ds1` from what a runtime says of itself, "" if it names none.

    containerd names its import path first (github.com/containerd/containerd/v2 2.1.0), which has no dot after v2.
    """
    found = _VERSION.search(text)
    return found[1] if found else ""
