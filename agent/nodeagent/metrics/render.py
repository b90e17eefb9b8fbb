"""From observed state to the bytes that a scrape sends: pure, and done once per cycle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nodeagent.metrics.catalogue import families
from nodeagent.metrics.exposition import Block, block, openmetrics, plain_text
from nodeagent.metrics.page import page
from nodeagent.metrics.snapshot import Snapshot

if TYPE_CHECKING:
    from nodeagent.metrics.view import View


def blocks(view: View) -> tuple[Block, ...]:
    """Every family that has a sample.

    What is not known is left out, never shown as 0: a GPU that does not answer keeps nothing but nodeagent_gpu_up 0.
    """
    found = (block(family, samples) for family, samples in families(view))
    return tuple(item for item in found if item is not None)


def snapshot(view: View, fresh_seconds: float = math.inf) -> Snapshot:
    """Both text formats of everything known, and the page for people; old after so many seconds."""
    found = blocks(view)
    return Snapshot(view.now, plain_text(found), openmetrics(found), page(view), fresh_seconds)
