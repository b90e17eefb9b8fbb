"""The Prometheus text format 0.0.4: families, labels and numbers as text.

Source: prometheus.io, exposition formats. Our own writer, because DCGM's counters do not end in _total, which
prometheus_client's writer would rename.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(StrEnum):
    """The metric types in use."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True)
class Family:
    """A metric family; all its samples stand together below one HELP and one TYPE."""

    name: str
    kind: Kind
    help: str


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def labels(**pairs: str) -> str:
    """A label set in the order given, `{UUID="GPU-…"}`; empty values are left out, which means the same."""
    inner = ",".join(f'{name}="{_escape(value)}"' for name, value in pairs.items() if value)
    return f"{{{inner}}}" if inner else ""


def number(value: float) -> str:
    """A sample value; integers stay exact, floats keep every digit."""
    if isinstance(value, int):
        return str(int(value))  # int() for booleans
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def family_lines(family: Family, samples: Iterable[tuple[str, float]]) -> list[str]:
    """The family's lines without line ends; none at all where it has no sample."""
    lines = [f"{family.name}{label_set} {number(value)}" for label_set, value in samples]
    if not lines:
        return []
    text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    return [f"# HELP {family.name} {text}", f"# TYPE {family.name} {family.kind.value}", *lines]
