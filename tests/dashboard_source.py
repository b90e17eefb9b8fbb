"""What a dashboard asks of Prometheus: its variables filled in, its queries answered, tables put together."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
POINTS = 240


@dataclass(frozen=True)
class Line:
    """A series over time: its name in the legend and (Unix time, value)."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Source:
    """A Prometheus at `address`, looked at from `start` to `end` (Unix time), scraping every `scrape_seconds`."""

    address: str
    start: float
    end: float
    scrape_seconds: float

    @property
    def step(self) -> float:
        return max(self.scrape_seconds, (self.end - self.start) / POINTS)

    def filled(self, expression: str) -> str:
        """As Grafana fills in: every variable at All, the whole range, four scrapes for a rate."""
        interval = max(4 * self.scrape_seconds, self.step + self.scrape_seconds)
        known = {"__rate_interval": f"{interval:.0f}s", "__range": f"{self.end - self.start:.0f}s"}
        return re.sub(r"\$(\w+)", lambda found: known.get(found[1], ".*"), expression)

    def lines(self, target: Mapping[str, Any]) -> list[Line]:
        """A target over the range."""
        asked = {"query": self.filled(target["expr"]), "start": self.start, "end": self.end, "step": self.step}
        return [
            Line(
                legend(target["legendFormat"], one["metric"]), tuple((at, float(value)) for at, value in one["values"])
            )
            for one in self._ask("query_range", asked)
        ]

    def rows(self, target: Mapping[str, Any], value_field: str = "Value") -> list[Row]:
        """A target at the end of the range, as the rows of a table."""
        found = self._ask("query", {"query": self.filled(target["expr"]), "time": self.end})
        return [{**one["metric"], value_field: float(one["value"][1])} for one in found]

    def _ask(self, what: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=60) as answer:  # a query that cannot be read is an HTTP error
            return list(json.load(answer)["data"]["result"])


def _points(values: Iterable[tuple[float, str]]) -> tuple[tuple[float, float], ...]:
    """What can be drawn: Grafana takes a division by zero for a gap."""
    points = ((at, float(value)) for at, value in values)
    return tuple((at, value) for at, value in points if math.isfinite(value))


def legend(form: str, labels: Mapping[str, str]) -> str:
    """`{{label}}` filled in; all labels where the dashboard leaves it to Grafana."""
    if form == "__auto":
        return ", ".join(f"{name}={value}" for name, value in labels.items()) or "value"
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), form).strip()


def table(source: Source, panel: Mapping[str, Any]) -> tuple[list[str], list[Row]]:
    """The columns and rows of a table panel after its transformations; KeyError for one that is not known here."""
    targets = panel["targets"]
    single = len(targets) == 1
    answers = [source.rows(one, "Value" if single else f"Value #{one['refId']}") for one in targets]
    rows = [row for answer in answers for row in answer] if single else []
    for step in panel["transformations"]:
        match step["id"]:
            case "merge":
                rows = merged(answers)
            case "filterFieldsByName":
                kept = step["options"]["include"]["names"]
                rows = [{name: row[name] for name in kept if name in row} for row in rows]
            case "organize":
                return _organized(rows, step["options"])
            case other:
                raise KeyError(other)
    return _organized(rows, {"indexByName": {}, "renameByName": {}})


def merged(answers: Iterable[Sequence[Row]]) -> list[Row]:
    """As Grafana's merge: rows whose common fields agree become one."""
    there = [answer for answer in answers if answer]
    if not there:
        return []
    common = set.intersection(*({name for row in answer for name in row} for answer in there))
    rows: dict[tuple[tuple[str, Any], ...], Row] = {}
    for row in (row for answer in there for row in answer):
        key = tuple(sorted((name, row[name]) for name in common if name in row))
        rows[key] = rows.get(key, {}) | row
    return list(rows.values())


def _organized(rows: list[Row], options: Mapping[str, Any]) -> tuple[list[str], list[Row]]:
    order, names = options["indexByName"], options["renameByName"]
    there = {name for row in rows for name in row}
    columns = sorted(there, key=lambda name: order.get(name, len(order)))
    return [names.get(name, name) for name in columns], [
        {names.get(name, name): value for name, value in row.items()} for row in rows
    ]
