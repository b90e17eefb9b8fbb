"""Container runtimes of a simulated node: a program file holds what it says of itself, a unit is a file with its state.

/usr/bin/containerd with the text "containerd 1.7.24" is an installed containerd; the folder of units says what runs,
and how often it was restarted. A daemon that finds a configuration it cannot read does not come up, as in life.
"""

from __future__ import annotations

import json
import os
import tomllib

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host.container_runtimes import PROGRAMS, parse_version
from nodeagent.host.files import LocalFiles
from nodeagent.host.runtime_facts import files_of

PLACE = "/.simulation/runtimes"


class SimulatedRuntimes:
    """`ports.ContainerRuntimes` over the node's directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files = LocalFiles(directory)

    def install(self, name: str, version: str, *, active: bool = True) -> None:
        """Put the program there; its unit runs from now on."""
        self._put(f"/usr/bin/{PROGRAMS[name]}", f"{PROGRAMS[name]} {version}\n")
        self._set(name, "active" if active else "inactive", self.restarts(name))

    def restarts(self, name: str) -> int:
        """How often the unit was restarted."""
        return int((self._files.read_optional(f"{PLACE}/{name}") or "inactive 0").split()[1])

    def version(self, name: str) -> str:
        return parse_version(self._files.read_optional(f"/usr/bin/{PROGRAMS[name]}") or "")

    def is_active(self, name: str) -> bool:
        return (self._files.read_optional(f"{PLACE}/{name}") or "").startswith("active")

    def verify(self, name: str, path: str, text: str) -> None:
        reason = _unreadable(path, text)
        if reason:
            raise UnsupportedError("verify", path, f"{name} refuses it: {reason}")

    def restart(self, name: str) -> None:
        """HostError while a file of its configuration cannot be read, or has `refuse_to_start` in it (a fault)."""
        for path, found in files_of(self._files, name):
            reason = _unreadable(path, found.text) or ("a fault" if "refuse_to_start" in found.text else "")
            if reason:
                self._set(name, "failed", self.restarts(name) + 1)
                raise HostError("restart", name, f"the unit is failed: {path}: {reason}")
        self._set(name, "active", self.restarts(name) + 1)

    def reload(self, name: str) -> None:
        """HostError while it does not run. A configuration that it cannot read is not taken over."""
        if not self.is_active(name):
            raise HostError("reload", name, "the unit is inactive")
        self._put(f"{PLACE}/{name}.reloads", f"{self.reloads(name) + 1}\n")

    def reloads(self, name: str) -> int:
        """How often it was told to read its configuration again."""
        return int(self._files.read_optional(f"{PLACE}/{name}.reloads") or "0")

    def _set(self, name: str, state: str, restarts: int) -> None:
        self._put(f"{PLACE}/{name}", f"{state} {restarts}\n")

    def _put(self, path: str, text: str) -> None:
        place = self._directory + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)


def _unreadable(path: str, text: str) -> str:
    try:
        if path.endswith(".json"):
            json.loads(text or "{}")
        else:
            tomllib.loads(text)
    except ValueError as error:
        return str(error)
    return ""
