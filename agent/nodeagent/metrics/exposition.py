"""The Prometheus text format 0.0.4 and OpenMetrics 1.0: families, labels and numbers as text.

Source: prometheus.io, exposition formats; OpenMetrics 1.0. Our own writer, because DCGM's counters do not end in
_total, which prometheus_client's writer would rename. OpenMetrics cannot call such a family a counter: there its type
is unknown, under the same name, so that dashboards find it whichever format was negotiated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
UNITS = ("seconds", "bytes", "joules", "watts", "celsius", "hertz", "ratio")


class Kind(StrEnum):
    """The metric types in use."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Family:
    """A metric family; all its samples stand together below one HELP and one TYPE.

    Label sets of a histogram's samples have the rest of the name before them: `_bucket{le="0.1"}`, `_sum`, `_count`.
    """

    name: str
    kind: Kind
    help: str


@dataclass(frozen=True)
class Block:
    """A family with its sample lines, each with its line end."""

    family: Family
    samples: str


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def labels(**pairs: str) -> str:
    """A label set in the order given, `{UUID="GPU-…"}`; empty values are left out, which means the same."""
    inner = ",".join([_pair(name, value) for name, value in pairs.items() if value])
    return f"{{{inner}}}" if inner else ""


@lru_cache(maxsize=20_000)  # they are the same from round to round, and far fewer than series
def _pair(name: str, value: str) -> str:
    return f'{name}="{_escape(value)}"'


def extended(label_set: str, **pairs: str) -> str:
    """A label set with more labels at its end."""
    more = labels(**pairs)
    return f"{label_set[:-1]},{more[1:]}" if label_set and more else label_set or more


def number(value: float) -> str:
    """A sample value; integers stay exact, floats keep every digit."""
    if isinstance(value, int):
        return str(int(value))  # int() for booleans
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def block(family: Family, samples: Iterable[tuple[str, float]]) -> Block | None:
    """The family's lines; None where it has no sample."""
    name = family.name
    text = "".join([f"{name}{label_set} {number(value)}\n" for label_set, value in samples])
    return Block(family, text) if text else None


def plain_text(blocks: Iterable[Block]) -> bytes:
    """The text format 0.0.4."""
    return "".join([f"{_plain_head(item.family)}{item.samples}" for item in blocks]).encode()


def openmetrics(blocks: Iterable[Block]) -> bytes:
    """OpenMetrics 1.0; ends with the line that tells a complete answer from one that was cut."""
    return ("".join([f"{_openmetrics_head(item.family)}{item.samples}" for item in blocks]) + "# EOF\n").encode()


def _plain_head(family: Family) -> str:
    text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {family.name} {text}\n# TYPE {family.name} {family.kind.value}\n"


def _openmetrics_head(family: Family) -> str:
    """The family's name there is without _total; its unit is the last word of that name."""
    name, kind = family.name, family.kind.value
    if family.kind is Kind.COUNTER:
        name, kind = (name.removesuffix("_total"), kind) if name.endswith("_total") else (name, "unknown")
    unit = next((unit for unit in UNITS if name.endswith(f"_{unit}")), "")
    lines = [f"# TYPE {name} {kind}"] + ([f"# UNIT {name} {unit}"] if unit else [])
    return "\n".join([*lines, f"# HELP {name} {_escape(family.help)}\n"])
