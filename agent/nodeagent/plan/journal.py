"""The journal: what a transition is about to do and has done, on disk before it happens, so that no crash is silent."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, get_type_hints

from nodeagent.errors import JournalError
from nodeagent.host.files import rooted
from nodeagent.host.paths import JOURNAL, PROC_BOOT_ID
from nodeagent.host.ports import Files
from nodeagent.plan.model import Transition
from nodeagent.resources.base import Disturbs, Step
from nodeagent.resources.registry import STEPS
from nodeagent.state.addressing import Route, Rule
from nodeagent.state.gpu import Placement
from nodeagent.state.things import Kind, Thing

VERSION = 1
_VALUES: Mapping[str, type[Any]] = {kind.__name__: kind for kind in (Thing, Placement, Kind, Disturbs, Route, Rule)}


class Phase(StrEnum):
    """Where in a transition a step stands."""

    QUIESCE = "quiesce"
    ACT = "act"
    UNDO = "undo"
    RESTORE = "restore"
    OWED = "owed"  # carried over from an earlier, interrupted transition


class Status(StrEnum):
    """pending: not begun. intent: may or may not have happened. done, failed: it returned."""

    PENDING = "pending"
    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    phase: Phase
    step: Step
    status: Status = Status.PENDING


class Journal:
    """The journal of one node. A change is on disk when the call that makes it returns.

    The file is replaced as a whole, durably. Who changes it while another writes has its change written together with
    those of all who wait: a write for each of 128 functions that come back at once would take longer than they do.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._boot_id = files.read_optional(PROC_BOOT_ID) or ""
        self._entries: list[Entry] = []
        self._texts: dict[Step, str] = {}
        self._changes, self._written = 0, 0
        self._lock, self._writing = threading.Lock(), threading.Lock()

    def begin(self, transition: Transition, owed: Sequence[Step]) -> None:
        """Write down everything before the first step; what was owed before stays owed."""
        anew = {step.subject for step in (*transition.quiesce, *transition.restore)}
        carried = [step for step in owed if step.subject not in anew or step.irreplaceable]
        self._entries = [
            *(Entry(Phase.OWED, step) for step in carried),
            *(Entry(Phase.QUIESCE, step) for step in transition.quiesce),
            *(Entry(Phase.ACT, step) for step in transition.acts),
            *(Entry(Phase.RESTORE, step) for step in transition.restore),
        ]
        self._save()

    def add(self, phase: Phase, step: Step) -> None:
        """A step that was not foreseen: an undo."""
        self._entries.append(Entry(phase, step))

    def note(self, phase: Phase, step: Step, status: Status) -> None:
        """Record the status of a step, durably. What is done is not owed any more either."""
        phases = (phase, Phase.OWED) if status is Status.DONE else (phase,)
        with self._lock:
            for index, entry in enumerate(self._entries):
                if entry.phase in phases and entry.step == step:
                    self._entries[index] = replace(entry, status=status)
            self._changes += 1
            mine = self._changes
        with self._writing:
            if self._written < mine:  # else another wrote this with its own
                self._save()

    def end(self) -> None:
        """Close the transition: nothing is left on disk unless something is still owed."""
        owed = owed_steps(self._entries)
        self._entries = [Entry(Phase.OWED, step) for step in owed]
        if owed:
            self._save()
        else:
            self._files.remove(JOURNAL)

    def settle(self, owed: Sequence[Step]) -> None:
        """Keep only these as owed, after an observation has shown that the others are there."""
        if not owed and self._entries:
            self._entries = []
            self._files.remove(JOURNAL)
        elif [entry.step for entry in self._entries] != list(owed):
            self._entries = [Entry(Phase.OWED, step) for step in owed]
            self._save()

    def read(self) -> tuple[Step, ...]:
        """Steps owed by an earlier run. JournalError if the file is damaged."""
        text = self._files.read_optional(JOURNAL)
        self._entries = list(decode(text, rooted(self._files.root, JOURNAL))) if text is not None else []
        return owed_steps(self._entries)

    @property
    def is_broken_off(self) -> bool:
        """Whether what was read is a transition that did not come to its end, and not only what an ended one owes."""
        return any(entry.phase is not Phase.OWED for entry in self._entries)

    def _save(self) -> None:
        with self._lock:
            changes, entries = self._changes, tuple(self._entries)
        self._texts = {entry.step: self._texts.get(entry.step) or step_text(entry.step) for entry in entries}
        self._files.replace(JOURNAL, encode(entries, self._boot_id, self._texts))
        self._written = changes


def owed_steps(entries: Sequence[Entry]) -> tuple[Step, ...]:
    """Steps that bring back what these entries took away and have not brought back, in the order to take them.

    An undo that only takes away what had come is not owed: it does no harm where it is, and it may be in use by now.
    """
    owed = [entry.step for entry in entries if entry.phase is Phase.OWED and entry.status is not Status.DONE]
    undone = [entry for entry in entries if entry.phase is Phase.UNDO]
    owed += [entry.step for entry in undone if entry.status is not Status.DONE]
    if not undone:
        owed += _broken_off(entries)
    taken = {e.step.subject for e in entries if e.phase is Phase.QUIESCE and e.status is not Status.PENDING}
    restores = [entry for entry in entries if entry.phase is Phase.RESTORE]
    owed += [entry.step for entry in restores if entry.step.subject in taken and entry.status is not Status.DONE]
    return tuple(dict.fromkeys(step for step in owed if step.back or not step.gone))


def _broken_off(entries: Iterable[Entry]) -> list[Step]:
    """Acts that would have brought back what an act before them took away (a reload cut in half)."""
    acts = [entry for entry in entries if entry.phase is Phase.ACT]
    gone = {thing for entry in acts if entry.status is not Status.PENDING for thing in entry.step.gone}
    return [entry.step for entry in acts if entry.status is not Status.DONE and gone.intersection(entry.step.back)]


def step_text(step: Step) -> str:
    """A step as JSON with its keys in order."""
    return json.dumps(_to_json(step), sort_keys=True)


def encode(entries: Sequence[Entry], boot_id: str, texts: Mapping[Step, str] = MappingProxyType({})) -> str:
    """Entries as one JSON document with a checksum over its body, an entry a line; `texts` are steps written before.

    Written again before and after each step, so it is put together from texts: they are what json.dumps gives for the
    whole with sorted keys, over which `decode` takes the checksum.
    """
    lines = [
        f'{{"phase": "{e.phase}", "status": "{e.status}", "step": {texts.get(e.step) or step_text(e.step)}}}'
        for e in entries
    ]
    boot = json.dumps(boot_id)
    whole = f'{{"boot_id": {boot}, "entries": [{", ".join(lines)}], "version": {VERSION}}}'
    head = f'{{"checksum": "{_digest(whole)}", "version": {VERSION}, "boot_id": {boot}'
    return head + ', "entries": [\n' + ",\n".join(lines) + "\n]}\n"


def decode(text: str, place: str = JOURNAL) -> tuple[Entry, ...]:
    """The entries of a journal, read from `place`. JournalError names the place of the damage and what to do."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(place, f"line {error.lineno}, byte {error.pos} of {len(text)}: {error.msg}") from error
    try:
        checksum = document.pop("checksum")
        if checksum != _checksum(document):
            raise _damaged(place, "its checksum does not match its content")
        if document["version"] != VERSION:
            raise _damaged(place, f"it has version {document['version']}, this agent writes {VERSION}")
        return tuple(_entry(item) for item in document["entries"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(place, f"its content is not a journal ({error!r})") from error


def _damaged(place: str, problem: str) -> JournalError:
    return JournalError(
        f"read journal {place}: {problem}; an earlier run may have been interrupted and still owe this node modules "
        "or services: compare `nodeagent show` with what you expect, then remove the file"
    )


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(Phase(item["phase"]), _from_json(item["step"]), Status(item["status"]))


def _checksum(body: object) -> str:
    return _digest(json.dumps(body, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _to_json(value: object) -> Any:
    """Steps and the values in them as {"type": ..., field: ...}; enums by value, tuples as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Step, Thing, Placement, Route, Rule)):
        return {"type": type(value).__name__, **{f.name: _to_json(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _from_json(document: Mapping[str, Any]) -> Any:
    kind = STEPS.get(document["type"]) or _VALUES[document["type"]]
    hints = get_type_hints(kind)
    known = (f.name for f in fields(kind) if f.name in document)  # an older agent may not have had them all
    return kind(**{name: _field(document[name], hints[name]) for name in known})


def _field(value: Any, hint: Any) -> Any:
    if isinstance(value, dict):
        return _from_json(value)
    if isinstance(value, list):
        return tuple(_field(item, None) for item in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return value
