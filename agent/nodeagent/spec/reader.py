"""Reads the node file: all its mistakes at once, each with file, line, column and path."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from nodeagent.errors import SpecError, SpecProblem
from nodeagent.spec.checks import check
from nodeagent.spec.decode import Decoder, Note, Path, Wrong, path_text
from nodeagent.spec.document import Mark, Node, Pairs, Text, compose
from nodeagent.spec.keys import Limits
from nodeagent.spec.scalars import found
from nodeagent.spec.schema import NodeSpec

LARGEST_BYTES = 1024 * 1024
VERSION = 1


@dataclass(frozen=True)
class Reading:
    """What a node file says: `spec` is None when there are problems; hints are worth a look, and change nothing."""

    spec: NodeSpec | None
    problems: tuple[SpecProblem, ...] = ()
    hints: tuple[SpecProblem, ...] = ()


def read_spec(path: str) -> NodeSpec:
    """The node file at `path`; raises SpecError with every problem in it, or the reason why it cannot be read."""
    return _accepted(examine_file(path))


def parse_spec(text: str, file: str) -> NodeSpec:
    """The node file in `text`; `file` is its name in messages. Raises SpecError with every problem in it."""
    return _accepted(examine(text, file))


def examine_file(path: str) -> Reading:
    """Like read_spec, with the problems as values and with hints."""
    try:
        return examine(read_text(path), path)
    except SpecError as error:
        return Reading(None, error.problems)


def examine(text: str, file: str) -> Reading:
    """Like parse_spec, with the problems as values and with hints."""
    try:
        root = _mapping(compose(text, file), file)
    except SpecError as error:
        return Reading(None, error.problems)
    stranger = _version_problem(root, file)
    return Reading(None, (stranger,)) if stranger else _decoded(root, file)


def _accepted(reading: Reading) -> NodeSpec:
    if reading.spec is None:
        raise SpecError(reading.problems)
    return reading.spec


def _decoded(root: Pairs, file: str) -> Reading:
    decoder = Decoder()
    spec = decoder.value(NodeSpec, root, (), Limits())
    if spec is not Wrong.VALUE:
        _judge(spec, decoder)
    problems = _located(decoder.problems, file)
    return Reading(None if problems else spec, problems, _located(decoder.hints, file))


def _judge(spec: NodeSpec, decoder: Decoder) -> None:
    """Add what is wrong between keys, except where it follows from a value that could not be read."""
    for finding in check(spec):
        paths = (finding.path, *finding.because)
        if not any(path[: len(tainted)] == tainted for path in paths for tainted in decoder.tainted):
            notes = decoder.hints if finding.is_hint else decoder.problems
            notes.append(Note(_place(decoder, finding.path), finding.path, finding.problem))


def _place(decoder: Decoder, path: Path) -> Mark:
    while path not in decoder.marks and path:
        path = path[:-1]
    return decoder.marks.get(path, Mark(1, 1))


def _located(notes: list[Note], file: str) -> tuple[SpecProblem, ...]:
    ordered = sorted(set(notes), key=lambda note: (note.mark, path_text(note.path), note.text))
    return tuple(
        SpecProblem(file, note.mark.line, note.mark.column, path_text(note.path), note.text) for note in ordered
    )


def _mapping(root: Node | None, file: str) -> Pairs:
    if isinstance(root, Pairs):
        return root
    advice = f"expected a mapping that begins with version: {VERSION}"
    if root is None or (isinstance(root, Text) and not root.text):
        raise SpecError((SpecProblem(file, 1, 1, "", f"the file is empty; {advice}"),))
    raise SpecError((SpecProblem(file, root.mark.line, root.mark.column, "", f"{advice}, found {found(root)}"),))


def _version_problem(root: Pairs, file: str) -> SpecProblem | None:
    """A file of another version: the only problem worth telling, as every other would follow from it."""
    for name, value in root.pairs:
        if name.text == "version" and isinstance(value, Text) and value.text and value.text != str(VERSION):
            problem = f"version {value.text} is not known; expected version: {VERSION}"
            return SpecProblem(file, value.mark.line, value.mark.column, "version", problem)
    return None


def read_text(path: str, expected: str = "a YAML file") -> str:
    """The text of a file an operator wrote; SpecError with the reason why it cannot be read, and what is `expected`."""
    try:
        content = _read_bytes(path, expected)
    except OSError as error:
        raise _unreadable(path, (error.strerror or str(error)).lower(), expected) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        problem = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise SpecError((SpecProblem(path, line, column, "", problem),)) from error


def _read_bytes(path: str, expected: str) -> bytes:
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _unreadable(path, "it is not a regular file", expected)
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise _unreadable(path, f"it is larger than {LARGEST_BYTES} bytes", expected)
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open as open() would, but a FIFO does not wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: str, reason: str, expected: str) -> SpecError:
    return SpecError((SpecProblem(path, 0, 0, "", f"cannot be read: {reason}; expected {expected}"),))
