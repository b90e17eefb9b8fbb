"""One rendered state of the node: a scrape sends its bytes and touches nothing else."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from functools import cached_property

_LEVEL = 6  # of 1 to 9: halves what level 1 sends for a millisecond more, once per snapshot


@dataclass(frozen=True)
class Snapshot:
    """`body` is the text format 0.0.4, `openmetrics` OpenMetrics 1.0 and `page` HTML, as of `generated_seconds`.

    That is Unix time; `fresh_seconds` later it is too old to call the agent ready.
    """

    generated_seconds: float
    body: bytes
    openmetrics: bytes = b""
    page: bytes = b""
    fresh_seconds: float = math.inf

    @cached_property
    def compressed(self) -> bytes:
        """The body gzipped, once per snapshot and only when a scraper asks for it."""
        return gzip.compress(self.body, compresslevel=_LEVEL, mtime=0)

    @cached_property
    def openmetrics_compressed(self) -> bytes:
        """The same of the other format."""
        return gzip.compress(self.openmetrics, compresslevel=_LEVEL, mtime=0)
