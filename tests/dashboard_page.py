"""A Grafana dashboard drawn without Grafana: its JSON and a real Prometheus in, one HTML page with SVG out.

Places, titles, units, legends, thresholds and value mappings are as Grafana lays them out; it is not Grafana's drawing.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

from dashboard_source import Line, Source, table
from dashboard_units import COLORS, number, shown

WIDTH, UNIT, GAP, HEAD = 1440, 30, 8, 84
PALETTE = (
    *("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300"),
    *("#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477"),
)
_TITLE, _LEGEND_ROW, _LEGEND_BELOW, _TABLE_ROW = 30, 19, 92, 26
_STYLE = """
body { margin: 0; background: #f4f5f5; color: #24292e; font: 13px/1.4 'DejaVu Sans', sans-serif; position: relative }
h1 { font-size: 19px; margin: 0; padding: 14px 12px 2px } .sub { padding: 0 12px; color: #6a7178 }
.p { position: absolute; background: #fff; border: 1px solid #dcdfe3; border-radius: 2px; overflow: hidden;
     box-sizing: border-box } .p h2 { font-size: 13px; font-weight: 600; margin: 6px 8px 0; height: 22px;
     overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.row { position: absolute; font-weight: 600; font-size: 15px; line-height: 30px; padding-left: 4px }
.stat { display: flex; align-items: center; justify-content: center; font-size: 38px; font-weight: 600 }
.none { color: #6a7178; text-align: center; padding-top: 40px; font-size: 14px }
table { border-collapse: collapse; width: 100%; font-size: 12px; table-layout: auto }
th, td { text-align: left; padding: 3px 8px; border-bottom: 1px solid #e7e9ec; white-space: nowrap; overflow: hidden;
         text-overflow: ellipsis; height: 18px; max-width: 380px } th { color: #1f60c4; font-weight: 600 }
td.v { text-align: right } .bar { background: #e8ebee; width: 64px; height: 12px; display: inline-block }
.bar i { display: block; height: 12px } .l { position: absolute; font-size: 11px } .l td, .l th { padding: 0 6px;
         height: 17px; border: 0; max-width: 270px } .more { color: #6a7178; font-size: 11px; padding: 2px 8px }
svg text { font: 10px 'DejaVu Sans', sans-serif; fill: #6a7178 }
"""


def page(board: Mapping[str, Any], source: Source) -> str:
    """The whole dashboard as a page of its own."""
    lowest = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in board["panels"])
    height = HEAD + lowest * (UNIT + GAP) + GAP
    clock = " to ".join(time.strftime("%H:%M:%S", time.gmtime(at)) for at in (source.start, source.end))
    chosen = ", ".join(f"{one['label']}: All" for one in board["templating"]["list"] if one["type"] == "query")
    head = f'<h1>{escape(board["title"])}</h1><div class="sub">{chosen} &nbsp; {clock} UTC</div>'
    body = "".join(_placed(one, source) for one in board["panels"])
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(board["title"])}</title>'
        f'<style>{_STYLE}</style></head><body style="width:{WIDTH}px;height:{height}px">{head}{body}</body></html>'
    )


def page_height(board: Mapping[str, Any]) -> int:
    lowest = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in board["panels"])
    return int(HEAD + lowest * (UNIT + GAP) + GAP)


def _placed(panel: Mapping[str, Any], source: Source) -> str:
    place = panel["gridPos"]
    column = (WIDTH - GAP) / 24
    width, height = place["w"] * column - GAP, place["h"] * (UNIT + GAP) - GAP
    left, top = GAP + place["x"] * column, HEAD + place["y"] * (UNIT + GAP)
    style = f"left:{left:.0f}px;top:{top:.0f}px;width:{width:.0f}px;height:{height:.0f}px"
    if panel["type"] == "row":
        return f'<div class="row" style="{style}">⌄ {escape(panel["title"])}</div>'
    draw = {"stat": _stat, "table": _table, "timeseries": _timeseries, "state-timeline": _timeline}[panel["type"]]
    inner = draw(panel, source, round(width), round(height) - _TITLE)
    return f'<div class="p" style="{style}"><h2>{escape(panel["title"])}</h2>{inner}</div>'


def _defaults(panel: Mapping[str, Any]) -> dict[str, Any]:
    return dict(panel["fieldConfig"]["defaults"])


def _nothing(panel: Mapping[str, Any]) -> str:
    return f'<div class="none">{escape(_defaults(panel).get("noValue", "No data"))}</div>'


def _stat(panel: Mapping[str, Any], source: Source, width: int, height: int) -> str:
    rows = [row for target in panel["targets"] for row in source.rows(target)]
    if not rows:
        return _nothing(panel)
    text, color = shown(rows[0]["Value"], _defaults(panel))
    plain = panel["options"]["colorMode"] != "background"
    paint = f"color:{COLORS[color]}" if plain else f"background:{COLORS[color]};color:#fff"
    place = f"position:absolute;left:0;top:{_TITLE}px;width:{width}px;height:{height}px"
    return f'<div class="stat" style="{place};{paint}">{escape(text)}</div>'


def _table(panel: Mapping[str, Any], source: Source, _width: int, height: int) -> str:
    columns, rows = table(source, panel)
    if not rows:
        return _nothing(panel)
    for wish in reversed(panel["options"].get("sortBy", ())):
        rows.sort(key=lambda row, name=wish["displayName"]: _order(row.get(name)), reverse=wish["desc"])
    fits = height // _TABLE_ROW - 1
    configs = {name: _configured(panel, name) for name in columns}
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(_cell(row.get(name), configs[name]) for name in columns)}</tr>" for row in rows[:fits]
    )
    more = f'<div class="more">{len(rows) - fits} more below</div>' if len(rows) > fits else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"


def _order(value: Any) -> tuple[int, float, str]:
    return (0, 0.0, "") if value is None else (1, value, "") if isinstance(value, float) else _text_order(value)


def _text_order(value: str) -> tuple[int, float, str]:
    """Numbers in a text by their size: mlx5_2 before mlx5_10."""
    return (2, 0.0, re.sub(r"\d+", lambda digits: digits[0].zfill(9), value))


def _configured(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The defaults of the panel with what is set for the column."""
    overrides = [one for one in panel["fieldConfig"]["overrides"] if one["matcher"]["options"] == name]
    return _defaults(panel) | {wish["id"]: wish["value"] for one in overrides for wish in one["properties"]}


def _cell(value: Any, config: Mapping[str, Any]) -> str:
    look = config.get("custom.cellOptions", {}).get("type", "auto")
    if value is None:
        return "<td></td>"
    if isinstance(value, str):
        mapped = config["mappings"][0]["options"].get(value) if config.get("mappings") else None
        text, color = (mapped["text"], mapped["color"]) if mapped else (value, "text")
        return f'<td style="color:{COLORS[color]}">{escape(text)}</td>'
    text, color = shown(value, config)
    if look == "gauge":
        share = 100 * min(1.0, max(0.0, value / config["max"]))
        bar = f'<span class="bar"><i style="width:{share:.0f}%;background:{COLORS[color]}"></i></span>'
        return f"<td>{bar} {escape(text)}</td>"
    if look == "color-background":
        return f'<td style="background:{COLORS[color]};color:#fff">{escape(text)}</td>'
    return f'<td style="color:{COLORS[color]}">{escape(text)}</td>'


def _timeseries(panel: Mapping[str, Any], source: Source, width: int, height: int) -> str:
    lines = [line for target in panel["targets"] for line in source.lines(target)]
    if not lines:
        return _nothing(panel)
    config = _defaults(panel)
    legend, wide, high = _legend(panel, lines, (width, height))
    axis = _Axis(source, *_bounds(lines, config), width - wide - 8, height - high)
    bars = config["custom"]["drawStyle"] == "bars"
    drawn = "".join(
        (axis.bars if bars else axis.path)(line, color) for line, color in zip(lines, cycle(PALETTE), strict=False)
    )
    limits = "".join(
        axis.limit(step["value"], COLORS[step["color"]])
        for step in config.get("thresholds", {}).get("steps", ())
        if step["value"] is not None and config["custom"]["thresholdsStyle"]["mode"] != "off"
    )
    return f"{axis.open(config)}{drawn}{limits}</svg>{legend}"


def _legend(panel: Mapping[str, Any], lines: Sequence[Line], size: tuple[int, int]) -> tuple[str, int, int]:
    """The legend as a table at the right or below, as many lines as fit; and the width and height that it takes."""
    config, wishes = _defaults(panel), panel["options"]["legend"]
    below = wishes["placement"] == "bottom"
    high = _LEGEND_BELOW if below else size[1]
    wide = size[0] - 8 if below else min(430, 175 + 7 * max(len(line.name) for line in lines))
    entries = list(zip(lines, cycle(PALETTE), strict=False))
    if wishes.get("sortDesc"):
        entries.sort(key=lambda entry: entry[0].points[-1][1], reverse=True)
    fits = (high - 8) // _LEGEND_ROW - 1
    fits = fits if len(entries) <= fits else fits - 1
    rows = "".join(_legend_row(line, color, config, wide - 165) for line, color in entries[:fits])
    more = f'<div class="more">{len(entries) - fits} more below</div>' if len(entries) > fits else ""
    head = '<tr><th></th><th class="v">Last *</th><th class="v">Max</th></tr>'
    place = f"right:4px;top:{_TITLE + size[1] - high}px;width:{wide}px"
    text = f'<div class="l" style="{place}"><table>{head}{rows}</table>{more}</div>'
    return (text, 0, high) if below else (text, wide, 0)


def _legend_row(line: Line, color: str, config: Mapping[str, Any], wide: int) -> str:
    last, most = line.points[-1][1], max(value for _, value in line.points)
    values = "".join(
        f'<td class="v">{number(one, config["unit"], config.get("decimals"))}</td>' for one in (last, most)
    )
    name = f'<span style="color:{color}">▬</span> {escape(line.name)}'
    return f'<tr><td style="max-width:{wide}px">{name}</td>{values}</tr>'


def _bounds(lines: Sequence[Line], config: Mapping[str, Any]) -> tuple[float, float]:
    values = [value for line in lines for _, value in line.points]
    low, high = config.get("min", min(values)), config.get("max", max(values))
    return (low, high) if high > low else (low, low + 1)


class _Axis:
    """Places of times and values in a plot."""

    def __init__(self, source: Source, low: float, high: float, width: int, height: int) -> None:
        self.source, self.low, self.high = source, low, high if high == 1 else high + 0.05 * (high - low)
        self.width, self.height, self.left, self.bottom = width, height, 62, 20

    def x(self, at: float) -> float:
        share = (at - self.source.start) / (self.source.end - self.source.start)
        return self.left + share * (self.width - self.left)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.height - self.bottom - share * (self.height - self.bottom - 8)

    def ticks(self, *, whole: bool) -> list[float]:
        """Four steps or fewer; whole numbers for what is counted."""
        wide = (self.high - self.low) / 4
        if whole:
            wide = max(1.0, math.ceil(wide))
        return [self.low + number * wide for number in range(5) if self.low + number * wide <= self.high]

    def open(self, config: Mapping[str, Any]) -> str:
        """The svg with grid and labels."""
        parts = [f'<svg width="{self.width}" height="{self.height}">']
        for value in self.ticks(whole=config.get("decimals") == 0):
            text = number(float(f"{value:.3g}"), config["unit"], config.get("decimals"))
            parts.append(
                f'<line x1="{self.left}" x2="{self.width}" y1="{self.y(value):.1f}" y2="{self.y(value):.1f}" '
                f'stroke="#e7e9ec"/><text x="{self.left - 4}" y="{self.y(value) + 3:.1f}" '
                f'text-anchor="end">{text}</text>'
            )
        return "".join(parts) + _times(self)

    def path(self, line: Line, color: str) -> str:
        """A line, with gaps where there is no value."""
        words, before = [], None
        for at, value in line.points:
            gap = before is None or at - before > 1.5 * self.source.step
            words.append(f"{'M' if gap else 'L'}{self.x(at):.1f} {self.y(value):.1f}")
            before = at
        return f'<path d="{" ".join(words)}" fill="none" stroke="{color}" stroke-width="1.3"/>'

    def bars(self, line: Line, color: str) -> str:
        foot = self.y(self.low)
        return "".join(
            f'<rect x="{self.x(at) - 1.5:.1f}" y="{self.y(value):.1f}" width="3" height="{foot - self.y(value):.1f}" '
            f'fill="{color}"/>'
            for at, value in line.points
        )

    def limit(self, value: float, color: str) -> str:
        if not self.low <= value <= self.high:
            return ""
        place = f'x1="{self.left}" x2="{self.width}" y1="{self.y(value):.1f}" y2="{self.y(value):.1f}"'
        return f'<line {place} stroke="{color}" stroke-dasharray="6 4"/>'


def _times(axis: _Axis) -> str:
    marks = [axis.source.start + share * (axis.source.end - axis.source.start) for share in (0.08, 0.36, 0.64, 0.92)]
    return "".join(
        f'<text x="{axis.x(at):.0f}" y="{axis.height - 5}" text-anchor="middle">'
        f"{time.strftime('%H:%M:%S', time.gmtime(at))}</text>"
        for at in marks
    )


def _timeline(panel: Mapping[str, Any], source: Source, width: int, height: int) -> str:
    """Each series a bar whose colour is its state."""
    lines = [line for target in panel["targets"] for line in source.lines(target)]
    if not lines:
        return _nothing(panel)
    config, wide = _defaults(panel), min(260, 12 + 7 * max(len(line.name) for line in lines))
    axis = _Axis(source, 0, 1, width - 8, height)
    axis.left = wide
    high = (height - axis.bottom - 4) / len(lines)
    parts = [f'<svg width="{width - 8}" height="{height}">']
    for place, line in enumerate(sorted(lines, key=lambda one: _text_order(one.name))):
        top = 2 + place * high
        parts.append(f'<text x="{wide - 6}" y="{top + high / 2 + 4:.1f}" text-anchor="end">{escape(line.name)}</text>')
        parts += [_stretch(axis, stretch, top, high * 0.9, config) for stretch in stretches(line, source.step)]
    return "".join(parts) + _times(axis) + "</svg>"


def stretches(line: Line, step: float) -> list[tuple[float, float, float]]:
    """(from, to, value) of each time during which the value stays; a gap ends one."""
    found: list[tuple[float, float, float]] = []
    for at, value in line.points:
        if found and found[-1][2] == value and at - found[-1][1] <= 0.5 * step:
            found[-1] = (found[-1][0], at + step, value)
        else:
            found.append((at, at + step, value))
    return found


def _stretch(
    axis: _Axis, stretch: tuple[float, float, float], top: float, high: float, config: Mapping[str, Any]
) -> str:
    start, end, value = stretch
    text, color = shown(value, config)
    left, right = axis.x(start), min(axis.x(end), axis.width)
    label = f'<text x="{left + 4:.1f}" y="{top + high / 2 + 4:.1f}" style="fill:#fff">{escape(text)}</text>'
    box = f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(1.0, right - left):.1f}" height="{high:.1f}"'
    return f'{box} fill="{COLORS[color]}"/>{label if right - left > 8 * len(text) else ""}'
