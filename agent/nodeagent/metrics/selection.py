"""dcgm-exporter's lists of counters (CSV): which DCGM families to show. The format is read as it is.

One row is a field's name, a Prometheus type and a help text, with commas between; `#` begins a comment line; blank
lines and blanks around the cells do not count. Source: NVIDIA/dcgm-exporter README and etc/default-counters.csv.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.errors import HostError
from nodeagent.metrics.catalogue import KNOWN_FAMILIES
from nodeagent.metrics.dcgm_labels import LABEL_NAMES

_TYPES = ("gauge", "counter", "histogram", "summary", "label")
_CELLS = 3


@dataclass(frozen=True)
class Selection:
    """The families a list asks for, and a warning for each line that asks for what there is not."""

    families: frozenset[str]
    warnings: tuple[str, ...] = ()


def parse_counters(text: str, file: str) -> Selection:
    """HostError with the line's number when the text is no such list; unknown names are warnings."""
    chosen, warnings = set(), []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, kind = _row(stripped, f"{file}:{number}")
        if name not in KNOWN_FAMILIES:
            warnings.append(f"{file}:{number}: {name} is not something NVML can give; it is left out")
            continue
        chosen.add(name)
        if kind == "label" and name not in LABEL_NAMES:
            warnings.append(f"{file}:{number}: {name} cannot be a label; it is shown as a family")
    return Selection(frozenset(chosen), tuple(warnings))


def _row(line: str, place: str) -> tuple[str, str]:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != _CELLS:
        wanted = "a row is FIELD, TYPE, HELP, and HELP may hold no comma"
        raise HostError("read", place, f"{len(cells)} cells instead of {_CELLS}", wanted)
    name, kind, _ = cells
    if kind not in _TYPES:
        raise HostError("read", place, f"{kind or 'nothing'} is not a type", f"valid are {', '.join(_TYPES)}")
    return name, kind
