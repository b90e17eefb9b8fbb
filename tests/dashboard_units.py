"""Values as Grafana writes them: the units that our dashboards use, value mappings, thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

COLORS = {
    "green": "#56a64b",
    "orange": "#f2761b",
    "red": "#d62f3e",
    "blue": "#3274d9",
    "text": "#24292e",
}
_SCALED = {
    # unit, base, names of the powers
    "bytes": (1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB")),
    "mbytes": (1024, ("MiB", "GiB", "TiB", "PiB")),
    "Bps": (1000, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s")),
    "bps": (1000, ("b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s")),
    "hertz": (1000, ("Hz", "kHz", "MHz", "GHz")),
    "watt": (1000, ("W", "kW", "MW")),
    "none": (1e30, ("",)),
    "short": (1000, ("", "K", "Mil", "Bil")),
    "pps": (1000, ("p/s", "kp/s", "Mp/s")),
    "cps": (1000, ("c/s", "kc/s", "Mc/s")),
    "celsius": (1e30, ("°C",)),
}
_TIMES = ((1e-6, 1e-9, "ns"), (1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (60.0, 1.0, "s"), (3600.0, 60.0, "min"))
_LONGER = ((86400.0, 3600.0, "hours"), (math.inf, 86400.0, "days"))
UNITS = frozenset({*_SCALED, "s", "percent", "percentunit"})


class Shown(NamedTuple):
    """A value as text, and a colour's name or ""."""

    text: str
    color: str


def number(value: float, unit: str = "none", decimals: int | None = None) -> str:
    """The value with its unit. KeyError for a unit that Grafana may have and this page does not."""
    if unit == "s":
        return _seconds(value, decimals)
    if unit in ("percent", "percentunit"):
        return f"{_plain(value * (100 if unit == 'percentunit' else 1), decimals)}%"
    base, names = _SCALED[unit]
    power = 0
    while abs(value) >= base and power < len(names) - 1:
        value, power = value / base, power + 1
    return f"{_plain(value, decimals)} {names[power]}".rstrip()


def _seconds(value: float, decimals: int | None) -> str:
    for below, size, name in (*_TIMES, *_LONGER):
        if abs(value) < below or below is math.inf:
            return "0 s" if value == 0 else f"{_plain(value / size, decimals)} {name}"
    raise AssertionError(value)


def _plain(value: float, decimals: int | None) -> str:
    """Three digits, as Grafana does without a wish; no zeros behind the point."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    places = 0 if value == round(value) else max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{min(places, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(value: float, defaults: Mapping[str, Any]) -> Shown:
    """The value by mappings, else by unit, decimals and thresholds of a field's configuration."""
    for mapping in defaults.get("mappings", ()):
        found = mapping["options"].get(f"{value:g}")
        if found:
            return Shown(found["text"], found["color"])
    color = threshold_color(value, defaults.get("thresholds", {}).get("steps", ()))
    return Shown(number(value, defaults.get("unit", "none"), defaults.get("decimals")), color)


def threshold_color(value: float, steps: Any) -> str:
    """The colour of the last step that is not above the value."""
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return passed[-1] if passed else "text"
