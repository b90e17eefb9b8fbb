"""Our own record of numbers that the node file goes by, of rails and GPUs: what falls off the bus must not give what is
left another number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from nodeagent.host.ports import Files


def read_numbers(files: Files, path: str) -> Mapping[str, int]:
    """What stands for a thing (PCI address, UUID) -> its number; empty when there is no record, or a damaged one."""
    try:
        document = json.loads(files.read_optional(path) or "{}")
        return {str(one): int(number) for one, number in document["numbers"].items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}  # then they are counted anew


def record_numbers(files: Files, path: str, present: Mapping[str, int]) -> None:
    """Keep the record while it has all that is present, with the same numbers; else what is present is the record."""
    known = read_numbers(files, path)
    if not present.items() <= known.items():
        files.replace(path, json.dumps({"numbers": dict(sorted(present.items()))}, indent=1) + "\n")
