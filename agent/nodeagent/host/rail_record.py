"""Our own record of the rails' numbers: a node that lost a GPU or a NIC must not give its other NICs new numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nodeagent.host.paths import RAILS
from nodeagent.host.ports import Files


def read_rails(files: Files) -> Mapping[str, int]:
    """PCI address of the NIC -> number; empty when there is no record, or a damaged one."""
    try:
        document = json.loads(files.read_optional(RAILS) or "{}")
        return {str(address): int(number) for address, number in document["rails"].items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}  # then they are counted anew


def record_rails(files: Files, rails: Mapping[str, int]) -> None:
    """Write it where it is not so already."""
    if rails != read_rails(files):
        files.replace(RAILS, json.dumps({"rails": dict(sorted(rails.items()))}, indent=1) + "\n")
