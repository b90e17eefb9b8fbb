"""What one path of the simulated tree is: a file with text, a symbolic link, a device node, or a folder as such."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from nodeagent.state.processes import DeviceNode


@dataclass(frozen=True)
class Entry:
    """Exactly one of text, link, node, data and folder counts; an empty text is an empty file, `data` a binary one.

    Folders come with what is in them; one that is there even when it is empty has an entry of its own.
    """

    text: str = ""
    link: str = ""
    node: DeviceNode | None = None
    data: bytes = b""
    folder: bool = False

    @property
    def content(self) -> bytes:
        return self.data or self.text.encode()


Tree: TypeAlias = dict[str, Entry]
Entries: TypeAlias = Iterator[tuple[str, Entry]]


def line(text: object) -> Entry:
    """A file of one line, as attributes in sysfs are."""
    return Entry(f"{text}\n")


def link(place: str, target: str) -> Entry:
    """A relative link at `place` to another path of the tree, so that the tree can stand anywhere.

    It ends in the target's own name even where the target lies above the link, as links in sysfs do.
    """
    folder, name = os.path.split(target)
    return Entry(link=os.path.join(os.path.relpath(folder, os.path.dirname(place)), name))
