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


def read_switched(files: Files, path: str) -> bool:
    """Whether things behind PCIe switches were counted, and not what stood in for them; False without a record."""
    try:
        return json.loads(files.read_optional(path) or "{}").get("switched") is True
    except (ValueError, AttributeError):
        return False


def record_numbers(files: Files, path: str, present: Mapping[str, int], *, switched: bool = False) -> None:
    """Keep the record while it has all that is present, with the same numbers; else what is present is the record.

    `switched` is as of read_switched; what was once seen behind a switch stays so while the record is kept.
    """
    known, was_switched = read_numbers(files, path), read_switched(files, path)
    if present.items() <= known.items():
        if was_switched or not switched:
            return
        present = known
    document = {"numbers": dict(sorted(present.items())), **({"switched": True} if switched else {})}
    files.replace(path, json.dumps(document, indent=1) + "\n")
