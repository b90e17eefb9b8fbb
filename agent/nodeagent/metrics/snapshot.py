"""One rendered state of the node: a scrape sends its bytes and touches nothing else."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Snapshot:
    """`body` is the exposition text as of `generated_seconds` (Unix time)."""

    generated_seconds: float
    body: bytes

    @cached_property
    def compressed(self) -> bytes:
        """The body gzipped, once per snapshot and only when a scraper asks for it."""
        return gzip.compress(self.body, compresslevel=6, mtime=0)
