"""One picture of `nodeagent top`: what is wrong, GPUs and their slices with who is on them, RDMA ports; pure.

A narrow terminal loses columns, the least important first, and never gets a line that is longer than it is wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nodeagent.cli.output import Style, count

Document = Mapping[str, Any]
_BAR = 10
_GAP = 2
_LEAST_OF_LAST = 12  # columns that the last cell of a line keeps, before another column goes for it
_PROBLEMS = 4


class Cell(NamedTuple):
    """A text and what it means: a word that Style knows, or ""."""

    text: str
    meaning: str = ""


class Column(NamedTuple):
    """A heading; `rank` 0 stays always, and of the others the highest goes first where there is no room."""

    head: str
    rank: int = 0
    right: bool = False


GPU_COLUMNS = (
    Column("GPU"),
    Column("PRODUCT", 4),
    Column("TEMP", 2, right=True),
    Column("POWER", 3, right=True),
    Column("UTIL", 0, right=True),
    Column("", 5),
    Column("MEMORY", 0, right=True),
    Column("", 5),
    Column("SM MHZ", 7, right=True),
    Column("XID", 1, right=True),
    Column("USED BY"),
)
PORT_COLUMNS = (
    Column("PORT"),
    Column("STATE"),
    Column("LINK", 1),
    Column("RAIL", 0, right=True),
    Column("GPU", 3, right=True),
    Column("GB/S", 4, right=True),
    Column("SENT", 0, right=True),
    Column("", 5),
    Column("RECEIVED", 0, right=True),
    Column("", 5),
)


def frame(document: Document, before: Document | None, style: Style, age_seconds: float) -> str:
    """The picture of a node; rates need the document before. Lines are cut to the style's width, if it has one."""
    parts = ["\n".join(_head(document, style, age_seconds))]
    gpus, ports = document["gpus"], document["ports"]
    if gpus:
        parts.append(table([row for gpu in gpus for row in _gpu_rows(gpu)], GPU_COLUMNS, style))
    if ports:
        rows = [_port_row(port, _rates(port, document, before)) for port in ports]
        parts.append(table(rows, PORT_COLUMNS, style))
    return "\n\n".join(parts)


def _head(document: Document, style: Style, age_seconds: float) -> Iterator[str]:
    simulated = f" (simulated {document['simulated']})" if document["simulated"] else ""
    driver = f"driver {document['driver']}" if document["driver"] else "no driver"
    yield style(
        "bold", _cut(f"{document['hostname']}{simulated}   {driver}   read {age_seconds:.0f} s ago", style.width)
    )
    words = [_gpus_word(document["gpus"]), _ports_word(document["ports"]), _plan_word(document), _health_word(document)]
    yield _joined([word for word in words if word.text], style)
    problems = document["problems"]
    for one in problems[:_PROBLEMS]:
        text = f"{one['verdict']}: {one['check']} of {one['subject']}: {one['evidence']}"
        yield style(_MEANINGS[one["verdict"]], _cut(text, style.width))
    if len(problems) > _PROBLEMS:
        yield _cut(f"and {len(problems) - _PROBLEMS} more: nodeagent health", style.width)


_MEANINGS = {"ok": "good", "unknown": "warn", "warning": "warn", "failed": "bad"}


def _gpus_word(gpus: Sequence[Document]) -> Cell:
    silent = sum(not gpu["up"] for gpu in gpus)
    power = sum(gpu["powerWatts"] or 0 for gpu in gpus if gpu["up"])
    text = (
        count(len(gpus), "GPU")
        + (f", {silent} silent" if silent else "")
        + (f", {power / 1000:.2f} kW" if power else "")
    )
    return Cell(text if gpus else "no GPU", "bad" if silent else "")


def _ports_word(ports: Sequence[Document]) -> Cell:
    down = sum(port["state"] != "ACTIVE" for port in ports)
    return (
        Cell(count(len(ports), "port") + (f", {down} down" if down else ""), "bad" if down else "")
        if ports
        else Cell("")
    )


def _plan_word(document: Document) -> Cell:
    if document["converged"] is None:
        return Cell("")
    if document["converged"]:
        return Cell("as its file says", "good")
    return Cell(f"{count(document['driftSteps'] or 0, 'step')} to do, {document['blocked'] or 0} blocked", "warn")


def _health_word(document: Document) -> Cell:
    return Cell(f"health {document['health']}", _MEANINGS[document["health"]]) if document["health"] else Cell("")


def _joined(words: Sequence[Cell], style: Style) -> str:
    """The words with dots between, as many as fit."""
    kept: list[Cell] = []
    for word in words:
        wide = sum(len(one.text) + 3 for one in (*kept, word)) - 3
        if not style.width or wide <= style.width:
            kept.append(word)
    return " · ".join(style(word.meaning, word.text) if word.meaning else word.text for word in kept)


def table(rows: Sequence[Sequence[Cell]], columns: Sequence[Column], style: Style) -> str:
    """Aligned rows under a head that fit the style's width: columns go by rank, and the last one is cut."""
    everything = [[Cell(column.head, "bold") for column in columns], *rows]
    kept = fitting(everything, columns, style.width)
    widths = {place: max(len(row[place].text) for row in everything) for place in kept}
    return "\n".join(
        _line([row[place] for place in kept], [columns[place] for place in kept], [*widths.values()], style)
        for row in everything
    )


def fitting(rows: Sequence[Sequence[Cell]], columns: Sequence[Column], width: int) -> list[int]:
    """The places of the columns that there is room for; all of them where `width` is 0."""
    widths = [max(len(row[place].text) for row in rows) for place in range(len(columns))]
    kept = [place for place in range(len(columns)) if widths[place]]

    def needed() -> int:
        *others, last = kept
        return sum(widths[place] + _GAP for place in others) + min(widths[last], _LEAST_OF_LAST)

    while width and needed() > width and any(columns[place].rank for place in kept):
        least = max(columns[place].rank for place in kept)
        kept = [place for place in kept if columns[place].rank < least]
    return kept


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], style: Style) -> str:
    parts, used = [], 0
    for number, (cell, column, wide) in enumerate(zip(cells, columns, widths, strict=True)):
        room = max(0, style.width - used) if style.width else wide
        text = _cut(cell.text, min(wide, room)) if min(wide, room) else ""
        is_last = number == len(cells) - 1
        padding = " " * (wide - len(text) if not is_last or column.right else 0)
        painted = style(cell.meaning, text) if cell.meaning else text
        parts.append(padding + painted if column.right else painted + padding)
        used += wide + _GAP
    return (" " * _GAP).join(parts).rstrip()


def _cut(text: str, width: int) -> str:
    """The text, with an ellipsis where it is longer; as it is for width 0."""
    return text if not width or len(text) <= width else f"{text[: width - 1]}…"


def _gpu_rows(gpu: Document) -> Iterator[tuple[Cell, ...]]:
    name = Cell(gpu["product"].removeprefix("NVIDIA "))
    number, xid = str(gpu["index"]), Cell(str(gpu["lastXid"] or "-"), "bad" if gpu["lastXid"] else "")
    if not gpu["up"]:
        nothing = (Cell("-"),) * 2
        yield (
            Cell(number, "bad"),
            name,
            *nothing,
            Cell("-"),
            Cell(""),
            Cell("-"),
            Cell(""),
            Cell("-"),
            xid,
            Cell("does not answer", "bad"),
        )
        return
    inside = {process["pid"] for instance in gpu["instances"] for process in instance["processes"]}
    watts, limit = gpu["powerWatts"], gpu["powerLimitWatts"]
    share = None if gpu["utilizationPercent"] is None else gpu["utilizationPercent"] / 100
    yield (
        Cell(number),
        name,
        Cell(_with(gpu["temperatureCelsius"], " C")),
        Cell(f"{_with(watts, '')}/{_with(limit, ' W')}"),
        Cell(_percent(share)),
        Cell(bar(share)),
        *_memory(gpu),
        Cell(_with(gpu["smClockMhz"], "")),
        xid,
        Cell(_users(process for process in gpu["processes"] if process["pid"] not in inside)),
    )
    for instance in gpu["instances"]:
        yield _instance_row(number, instance)


def _instance_row(gpu: str, instance: Document) -> tuple[Cell, ...]:
    share, nothing = instance["graphicsRatio"], Cell("")
    name = Cell(f"  {instance['profile']} @{instance['start']}")
    used = (Cell(_percent(share)), Cell(bar(share)), *_memory(instance))
    place = Cell(f"{gpu}:{instance['giId']}")
    return (place, name, nothing, nothing, *used, nothing, nothing, Cell(_users(instance["processes"])))


def _memory(device: Document) -> tuple[Cell, Cell]:
    """In GiB, and as a bar."""
    used, total = device["memoryUsedMib"], device["memoryTotalMib"]
    share = used / total if total and used is not None else None
    text = "-" if used is None or total is None else f"{used / 1024:.1f}/{total / 1024:.1f} GiB"
    return Cell(text), Cell(bar(share))


def _users(processes: Iterable[Document]) -> str:
    return ", ".join(f"{process['pod'] or process['name']} ({process['pid']})" for process in processes)


def _rates(port: Document, document: Document, before: Document | None) -> tuple[float | None, float | None]:
    """Bytes a second sent and received since the document before; none where a counter began anew."""
    if before is None or (seconds := document["readUnixSeconds"] - before["readUnixSeconds"]) <= 0:
        return None, None
    earlier = {(other["device"], other["port"]): other for other in before["ports"]}
    old = earlier.get((port["device"], port["port"]))
    return (
        (None, None)
        if old is None
        else (_rate(old, port, "sentBytes", seconds), _rate(old, port, "receivedBytes", seconds))
    )


def _rate(old: Document, new: Document, key: str, seconds: float) -> float | None:
    if old[key] is None or new[key] is None or new[key] < old[key]:
        return None
    return float(new[key] - old[key]) / seconds


def _port_row(port: Document, rates: tuple[float | None, float | None]) -> tuple[Cell, ...]:
    most = port["rateBytesPerSecond"]
    state = Cell(port["state"], "" if port["state"] == "ACTIVE" else "bad")
    place = (
        Cell(f"{port['device']}/{port['port']}"),
        state,
        Cell(port["netdev"] or "-"),
        Cell(port["rail"] or "-"),
        Cell(port["gpu"] or "-"),
    )
    fastest = Cell(f"{most / 1e9:.1f}" if most else "-")
    moved = [cell for rate in rates for cell in _moved(rate, most)]
    return (*place, fastest, *moved)


def _moved(rate: float | None, most: float) -> tuple[Cell, Cell]:
    if rate is None:
        return Cell("-"), Cell("")
    return Cell(f"{rate / 1e9:.2f}"), Cell(bar(rate / most if most else None))


def bar(share: float | None) -> str:
    """`####......` for 0 to 1; empty where the share is not known."""
    if share is None:
        return ""
    filled = round(min(1.0, max(0.0, share)) * _BAR)
    return "#" * filled + "." * (_BAR - filled)


def _with(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"
