"""The two steps on kernel modules: load one, unload one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.host.loaded_options import record_options
from nodeagent.resources.base import Disturbs, Step
from nodeagent.state.things import Kind, Thing, module

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState


@dataclass(frozen=True, kw_only=True)
class LoadModule(Step):
    """Insert one module with the given options.

    `needs` are the modules that must be in before, `behind` those whose steps must be done before (a conflicting
    module that has to go).
    """

    options: str = ""
    needs: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"load module {self.subject.name}" + (f" with {self.options}" if self.options else "")

    def apply(self, host: Host) -> None:
        record_options(host.files, self.subject.name, self.options)
        host.kmod.load(self.subject.name, self.options)

    def undo(self) -> Step:
        return UnloadModule(subject=self.subject, unit=self.unit, reason="undo", options=self.options)

    def satisfied(self, state: NodeState) -> bool:
        return state.is_loaded(self.subject.name)

    @property
    def after(self) -> tuple[Thing, ...]:
        return tuple(module(name) for name in (*self.needs, *self.behind))

    @property
    def back(self) -> tuple[Thing, ...]:
        return (self.subject,)


@dataclass(frozen=True, kw_only=True)
class UnloadModule(Step):
    """Remove one module; `options` are those it was loaded with, `serves` says whose work stops with it."""

    options: str = ""
    serves: Disturbs = Disturbs.NOTHING

    def __str__(self) -> str:
        return f"unload module {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.kmod.unload(self.subject.name)

    def undo(self) -> Step:
        return LoadModule(subject=self.subject, unit=self.unit, reason="undo", options=self.options)

    def satisfied(self, state: NodeState) -> bool:
        return self.subject.name not in state.modules

    @property
    def disturbs(self) -> Disturbs:
        return self.serves

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,)

    @property
    def gone(self) -> tuple[Thing, ...]:
        return (Thing(Kind.MODULE, self.subject.name),)
