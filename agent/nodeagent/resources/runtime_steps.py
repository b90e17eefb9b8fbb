"""Steps on container runtimes: their configuration, with a backup and the runtime's own verdict, and their restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.host.paths import BACKUPS, RESTARTS_DUE
from nodeagent.resources.base import Disturbs, Step
from nodeagent.resources.config_edit import difference
from nodeagent.resources.file_steps import WriteFile
from nodeagent.state.containers import Owed
from nodeagent.state.things import Kind, Thing

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

PRIVATE = 0o600
RELOADED_SECONDS = 1.0  # a daemon reads its configuration some time after the signal


def runtime_thing(name: str) -> Thing:
    return Thing(Kind.RUNTIME, name)


def marker_of(name: str) -> str:
    """The file that says that a runtime has yet to be restarted; it outlives a crash of the agent."""
    return f"{RESTARTS_DUE}/{name}"


def backup_of(path: str) -> str:
    """Where the file is kept as it was before our last change."""
    return f"{BACKUPS}/{path.strip('/').replace('/', '_')}"


@dataclass(frozen=True, kw_only=True)
class WriteRuntimeConfig(WriteFile):
    """Change a runtime's configuration. `owed`: what the runtime must be told afterwards, "" if it does not run."""

    runtime: str
    owed: str

    def __str__(self) -> str:
        return f"{super().__str__()}: {difference(self.before or '', self.text)}"

    def apply(self, host: Host) -> None:
        host.runtimes.verify(self.runtime, self.subject.name, self.text)
        if self.before is not None:
            host.files.replace(backup_of(self.subject.name), self.before, PRIVATE)
        if self.owed:
            host.files.replace(marker_of(self.runtime), self.owed, PRIVATE)
        super().apply(host)

    def undo(self) -> Step:
        return RestoreRuntimeConfig(
            subject=self.subject, unit=self.unit, reason="undo", runtime=self.runtime, text=self.before, mode=self.mode
        )

    def satisfied(self, state: NodeState) -> bool:
        found = state.containers.runtimes.get(self.runtime)
        return (
            found is not None
            and self.subject.name in found.files
            and (found.files[self.subject.name].text == self.text)
        )


@dataclass(frozen=True, kw_only=True)
class RestoreRuntimeConfig(Step):
    """Put back a configuration, None for none; tells the runtime if it was told of the other one."""

    runtime: str
    text: str | None
    mode: int = 0o644

    def __str__(self) -> str:
        return f"put back {self.runtime} configuration {self.subject.name}"

    def apply(self, host: Host) -> None:
        if self.text is None:
            host.files.remove(self.subject.name)
        else:
            host.files.replace(self.subject.name, self.text, self.mode)
        owed = host.files.read_optional(marker_of(self.runtime))
        if owed == Owed.RESTARTING:
            host.runtimes.restart(self.runtime)
        elif owed == Owed.RELOADING:
            host.runtimes.reload(self.runtime)
        host.files.remove(marker_of(self.runtime))

    def satisfied(self, state: NodeState) -> bool:
        found = state.containers.runtimes.get(self.runtime)
        here = found.files.get(self.subject.name) if found else None
        return (here.text if here else None) == self.text

    @property
    def back(self) -> tuple[Thing, ...]:
        return (self.subject,)


@dataclass(frozen=True, kw_only=True)
class ReloadRuntime(Step):
    """Have a runtime read its configuration again, where that is enough: nothing is restarted."""

    def __str__(self) -> str:
        return f"reload configuration of {self.subject.name}"

    def apply(self, host: Host) -> None:
        name = self.subject.name
        host.files.replace(marker_of(name), Owed.RELOADING, PRIVATE)
        host.runtimes.reload(name)
        host.files.remove(marker_of(name))

    def satisfied(self, state: NodeState) -> bool:
        found = state.containers.runtimes.get(self.subject.name)
        return found is not None and not found.owed


@dataclass(frozen=True, kw_only=True)
class RestartRuntime(Step):
    """Restart a runtime. Containers of containerd, CRI-O and of Docker with live-restore go on, those of others not.

    `reloads_first`: that containers go on is said in the configuration, which a running Docker may not have read yet.
    """

    stops_containers: bool = False
    reloads_first: bool = False

    def __str__(self) -> str:
        stops = ", which stops its containers" if self.stops_containers else ""
        return f"restart {self.subject.name}{stops}"

    def apply(self, host: Host) -> None:
        name = self.subject.name
        host.files.replace(marker_of(name), Owed.RESTARTING, PRIVATE)
        if self.reloads_first:
            host.runtimes.reload(name)
            host.clock.sleep(RELOADED_SECONDS)
        host.runtimes.restart(name)
        host.files.remove(marker_of(name))

    def satisfied(self, state: NodeState) -> bool:
        found = state.containers.runtimes.get(self.subject.name)
        return found is not None and not found.owed

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NODE if self.stops_containers else Disturbs.NOTHING
