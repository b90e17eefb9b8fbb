"""From values back to a node file: the plain document of a spec, and documents as YAML with the schema's comments."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_origin

from nodeagent.spec.decode import record_in
from nodeagent.spec.keys import keys_of
from nodeagent.spec.schema import NodeSpec

Document = Mapping[str, Any]

# Text that every YAML reader takes as text without quotes; numbers and words such as `no` are excluded below.
_PLAIN = re.compile(r"[A-Za-z0-9/_.][A-Za-z0-9/_.+*:@-]*(?<!:)")
_AMBIGUOUS = re.compile(r"[0-9_.:+-]*|0[xXob][0-9a-fA-F_]*|[0-9.]+[eE][0-9]+|(?i:y|n|yes|no|on|off|true|false|null)")
_COMMENT_WIDTH = 110


def to_document(spec: NodeSpec) -> dict[str, Any]:
    """The spec as plain mappings, lists, texts and numbers; defaults are written out, what is not set is left out."""
    document: dict[str, Any] = plain(spec)
    return document


def plain(value: Any) -> Any:
    if is_dataclass(value):
        entries = ((entry.name, getattr(value, entry.name)) for entry in fields(value))
        return {name: plain(inner) for name, inner in entries if inner is not None}
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value  # a StrEnum becomes a plain text


def render(document: Document, *, notes: Mapping[str, str] | None = None, title: str = "") -> str:
    """The document as a node file.

    With `notes` it has comments: at each key the note under its path, such as `links[1].mtu`, else the schema's
    documentation the first time the key appears.
    """
    writer = _Writer(notes)
    lines = [*_comment(title), *writer.mapping(document, NodeSpec, "")]
    return "\n".join(lines) + "\n"


@dataclass
class _Writer:
    notes: Mapping[str, str] | None
    explained: set[str] = field(default_factory=set)

    def mapping(self, document: Document, record: type, path: str) -> Iterator[str]:
        known = {key.name: key for key in keys_of(record)}
        for name, value in document.items():
            place = f"{path}.{name}".removeprefix(".")
            if self.notes is not None and not path:
                yield ""
            yield from self._explain(place, known[name].doc)
            yield from self._entry(name, value, known[name].hint, place)

    def _entry(self, name: str, value: Any, hint: Any, path: str) -> Iterator[str]:
        record = record_in(hint)
        if not record or not value or isinstance(value, str):
            yield f"{name}: {flow(value)}"
            return
        yield f"{name}:"
        if isinstance(value, Mapping):
            yield from (f"  {line}" for line in self._inner(value, hint, record, path))
            return
        for index, item in enumerate(value):
            yield from (f"  {line}" for line in self._item(item, record, f"{path}[{index}]"))

    def _inner(self, value: Document, hint: Any, record: type, path: str) -> Iterator[str]:
        if get_origin(hint) is not Mapping:
            yield from self.mapping(value, record, path)
            return
        for name, inner in value.items():
            yield from self._entry(name, inner, record, f"{path}.{name}")

    def _item(self, item: Document, record: type, path: str) -> Iterator[str]:
        bullet = "- "
        for line in self.mapping(item, record, path):
            if line.startswith("#") and bullet == "- ":
                yield line
            else:
                yield bullet + line
                bullet = "  "

    def _explain(self, path: str, doc: str) -> Iterator[str]:
        if self.notes is None:
            return
        general = re.sub(r"\[[0-9]+\]", "", path)
        default = "" if general in self.explained else doc
        self.explained.add(general)
        yield from _comment(self.notes.get(path, default))


def _comment(text: str) -> list[str]:
    wrapped = (textwrap.wrap(line, _COMMENT_WIDTH, break_long_words=False) for line in text.splitlines())
    return [f"# {line}" for lines in wrapped for line in lines]


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(name)}: {flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and not _AMBIGUOUS.fullmatch(value) else _quoted(value)
    return json.dumps(value)  # numbers and booleans are the same in JSON and YAML


def _quoted(text: str) -> str:
    """In double quotes, with YAML's own escapes: JSON's would split characters above U+FFFF in two."""
    escaped = (letter if " " <= letter <= "~" else f"\\U{ord(letter):08x}" for letter in text)
    return '"' + "".join({"\\": "\\\\", '"': '\\"'}.get(letter, letter) for letter in escaped) + '"'
