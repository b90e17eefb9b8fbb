"""What a rule over a whole node file finds."""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.spec.decode import Path


@dataclass(frozen=True)
class Finding:
    """A contradiction at `path`; it is not told if `path` or one of `because` could not be read."""

    path: Path
    problem: str
    because: tuple[Path, ...] = ()
    is_hint: bool = False
