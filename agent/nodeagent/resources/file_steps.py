"""Steps on whole regular files: written and removed as one, with what was there before as the undo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nodeagent.resources.base import Step
from nodeagent.state.things import Kind, Thing

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

MODE = 0o644


def file_thing(path: str) -> Thing:
    """The name of a file in plans."""
    return Thing(Kind.FILE, path)


@dataclass(frozen=True, kw_only=True)
class WriteFile(Step):
    """Replace a file durably; `before` is its text until now, None where there was none. `what` names its purpose."""

    what: str
    text: str
    before: str | None = None
    mode: int = MODE

    def __str__(self) -> str:
        return f"{'write' if self.before is None else 'update'} {self.what} {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.files.replace(self.subject.name, self.text, self.mode)

    def undo(self) -> Step:
        if self.before is None:
            return RemoveFile(subject=self.subject, unit=self.unit, reason="undo", what=self.what, before=self.text)
        return replace(self, reason="undo", text=self.before, before=self.text)

    def satisfied(self, state: NodeState) -> bool:
        return text_in(state, self.subject.name) == self.text


@dataclass(frozen=True, kw_only=True)
class RemoveFile(Step):
    """Remove a file; `before` is its text until now."""

    what: str
    before: str = ""
    mode: int = MODE

    def __str__(self) -> str:
        return f"remove {self.what} {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.files.remove(self.subject.name)

    def undo(self) -> Step:
        return WriteFile(
            subject=self.subject, unit=self.unit, reason="undo", what=self.what, text=self.before, mode=self.mode
        )

    def satisfied(self, state: NodeState) -> bool:
        return text_in(state, self.subject.name) is None


@dataclass(frozen=True, kw_only=True)
class WriteCdiSpec(WriteFile):
    """Write a CDI specification; runtimes read it at their next use, none is restarted."""


@dataclass(frozen=True, kw_only=True)
class RemoveCdiSpec(RemoveFile):
    """Remove a CDI specification whose devices are no longer there, or another tool's to give."""


def text_in(state: NodeState, path: str) -> str | None:
    """The text of a file that was observed for containers, None if it is not there."""
    found = state.containers.texts.get(path)
    if found is not None:
        return found
    return next((file.text for file in state.containers.cdi_files if file.path == path), None)
