"""The page at /: what the node is and how it does, for a person with a browser. No script, no foreign resource."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from nodeagent.metrics.document import telemetry_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from nodeagent.metrics.view import View

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2024 }
h1 { font-size: 1.4rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
caption { position: absolute; left: -999rem } .t { overflow-x: auto }
dl { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
dl div { border: 1px solid #e2e6ea; border-radius: 8px; padding: .5rem 1rem; min-width: 7rem }
dt { color: #5b6570; font-size: .85rem } dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums }
p { margin: .2rem 0; color: #5b6570 } a { color: #1b6ac9 }
table { border-collapse: collapse; width: 100% } tr:hover td { background-color: #f4f7fa }
td.long { white-space: normal; min-width: 14rem }
td.bar { background: linear-gradient(to right, #cfe3fb var(--f), transparent var(--f)) no-repeat 0 80% / 100% 4px }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #e2e6ea; white-space: nowrap }
th { font-weight: 600; color: #5b6570 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
tr.i td:first-child { padding-left: 1.2rem } .bad { color: #b3261e } .good { color: #1a7f37 }
.warn { color: #8a5300 } td.bad, td.warn { font-weight: 600 }
@media (max-width: 40rem) { .wide { display: none } body { margin: 1rem auto } th, td { padding-right: .5rem }
  td.long { min-width: 9rem } }
@media (prefers-color-scheme: dark) {
  body { background: #14171a; color: #e4e7ea } th, p { color: #98a2ad } th, td { border-color: #2b3138 }
  dl div { border-color: #2b3138 } dt { color: #98a2ad } tr:hover td { background-color: #1d2226 }
  td.bar { background-image: linear-gradient(to right, #2f6fb5 var(--f), transparent var(--f)) }
  a { color: #6cb2ff } .bad { color: #ff8a80 } .good { color: #6fdd8b }
  .warn { color: #f0b429 } }
"""
_USER_CHARACTERS = 60
_LINKS = (
    '<nav aria-label="endpoints"><p><a href="/metrics">metrics</a> · <a href="/healthz">healthz</a> · '
    '<a href="/readyz">readyz</a></p></nav>'
)
_GPU_HEAD = ("GPU", "Product", "Temp °C", "Power W", "Util %", "Memory MiB", "SM MHz", "Last Xid", "Used by")
_PORT_HEAD = ("Port", "State", "Interface", "Rail", "Nearest GPU", "Rate Gb/s", "Sent GB", "Received GB")
_PROBLEM_HEAD = ("Verdict", "Check", "Of", "Since", "What was seen", "What to do")
_NUMBERS = frozenset({"Temp °C", "Power W", "Util %", "Memory MiB", "SM MHz", "Rate Gb/s", "Sent GB", "Received GB"})
_ON_WIDE_SCREENS = frozenset({"SM MHz", "Nearest GPU", "Rate Gb/s", "Since"})
_LONG = frozenset({"What was seen", "What to do"})
_PROBLEMS = 20
_VERDICT_CLASS = {"ok": "good", "unknown": "warn", "warning": "warn", "failed": "bad"}
_VERDICT_TEXT = {"ok": "ok", "unknown": "not all seen", "warning": "doubtful", "failed": "failed"}


def empty_page() -> bytes:
    """The page before there is anything to show."""
    return _document("nodeagent", f"<h1>nodeagent</h1>{_LINKS}<p>nothing observed yet</p>")


def page(view: View) -> bytes:
    found = telemetry_document(view)
    simulated = f" (simulated {escape(found['simulated'])})" if found["simulated"] else ""
    parts = [f"<h1>{escape(found['hostname'])}{simulated}</h1>", _condition(found), _LINKS]
    parts.append(_tiles(found))
    if found["problems"]:
        parts.append(_problems(found["problems"]))
    if found["gpus"]:
        parts.append(_table("GPUs", _GPU_HEAD, [row for gpu in found["gpus"] for row in _gpu_rows(gpu)]))
    if found["ports"]:
        parts.append(_table("RDMA ports", _PORT_HEAD, [_port_row(port) for port in found["ports"]]))
    return _document(escape(found["hostname"]), "\n".join(parts))


def _document(title: str, body: str) -> bytes:
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="15">'
        f"<title>{title} · nodeagent</title><style>{_STYLE}</style>"
    )
    text = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>{body}</main></body></html>\n'
    return text.encode()


def _condition(found: Mapping[str, Any]) -> str:
    if found["converged"] is None:
        text = "not looked at yet"
    elif found["converged"]:
        text = '<span class="good">as the node file says</span>'
    else:
        what = f"{found['driftSteps']} steps, {found['blocked']} blocked"
        text = f'<span class="bad">not as the node file says</span>: {what}'
    driver = f", driver {escape(found['driver'])}" if found["driver"] else ""
    return f"<p>{text}{driver}, nodeagent {escape(found['version'])}</p>"


def _tiles(found: Mapping[str, Any]) -> str:
    """The node at a glance."""
    gpus, ports = found["gpus"], found["ports"]
    up = [gpu for gpu in gpus if gpu["up"]]
    power = sum(gpu["powerWatts"] or 0 for gpu in up)
    used = sum(gpu["memoryUsedMib"] or 0 for gpu in up)
    total = sum(gpu["memoryTotalMib"] or 0 for gpu in up)
    active = sum(port["state"] == "ACTIVE" for port in ports)
    worst = found["health"]
    failed = sum(one["verdict"] == "failed" for one in found["problems"])
    tiles = {
        "Health": f'<span class="{_VERDICT_CLASS[worst]}">{_health(worst, failed)}</span>' if worst else "",
        "GPUs that answer": f"{len(up)} of {len(gpus)}" if gpus else "",
        "Power": f"{power / 1000:.2f} kW" if power else "",
        "GPU memory in use": f"{100 * used / total:.0f} %" if total else "",
        "RDMA ports up": f"{active} of {len(ports)}" if ports else "",
        "Read": time.strftime("%H:%M:%S UTC", time.gmtime(found["readUnixSeconds"])),
    }
    shown = (f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in tiles.items() if text)
    return f"<dl>{''.join(shown)}</dl>"


def _health(worst: str, failed: int) -> str:
    return f"{failed} failed" if failed else _VERDICT_TEXT[worst]


def _problems(problems: Sequence[Mapping[str, Any]]) -> str:
    rows = [_problem_row(one) for one in problems[:_PROBLEMS]]
    more = f"<p>and {len(problems) - _PROBLEMS} more: nodeagent health</p>" if len(problems) > _PROBLEMS else ""
    return _table("What is wrong", _PROBLEM_HEAD, rows) + more


def _problem_row(one: Mapping[str, Any]) -> str:
    since = time.strftime("%m-%d %H:%M UTC", time.gmtime(one["sinceUnixSeconds"]))
    cells = (one["check"], one["subject"], since, one["evidence"], one["advice"])
    verdict = f'<td class="{_VERDICT_CLASS[one["verdict"]]}">{one["verdict"]}</td>'
    rest = "".join(_cell(name, cell) for name, cell in zip(_PROBLEM_HEAD[1:], cells, strict=True))
    return f"<tr>{verdict}{rest}</tr>"


def _table(title: str, head: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls by itself on a narrow screen; its caption is for readers, its heading for eyes."""
    cells = "".join(f'<th scope="col"{_classes(name)}>{name}</th>' for name in head)
    start = f'<h2>{title}</h2>\n<div class="t" role="region" aria-label="{title}" tabindex="0">'
    top = f"<table><caption>{title}</caption><thead><tr>{cells}</tr></thead>\n<tbody>"
    return start + top + "\n".join(rows) + "\n</tbody></table></div>"


def _classes(name: str, *more: str) -> str:
    found = [
        *(["n"] if name in _NUMBERS else []),
        *(["wide"] if name in _ON_WIDE_SCREENS else []),
        *(["long"] if name in _LONG else []),
        *more,
    ]
    return f' class="{" ".join(found)}"' if found else ""


class _Share(NamedTuple):
    """A cell with a bar under its text; `part` is 0 to 1."""

    text: str
    part: float


def _row(head: Sequence[str], cells: Sequence[str | _Share], kind: str = "") -> str:
    inner = "".join(_cell(name, cell) for name, cell in zip(head, cells, strict=True))
    return f'<tr class="{kind}">{inner}</tr>'


def _cell(name: str, cell: str | _Share) -> str:
    if isinstance(cell, _Share):
        return f'<td{_classes(name, "bar")} style="--f:{100 * cell.part:.0f}%">{escape(cell.text)}</td>'
    return f"<td{_classes(name)}>{escape(cell)}</td>"


def _gpu_rows(gpu: Mapping[str, Any]) -> Iterable[str]:
    xid = _text(gpu["lastXid"] or None)
    if not gpu["up"]:
        yield _row(_GPU_HEAD, (f"{gpu['index']}", _product(gpu), *("-",) * 5, xid, "does not answer"), "bad")
        return
    util = gpu["utilizationPercent"]
    share = _Share(_text(util), util / 100) if util is not None else _text(util)
    sensors = (
        _text(gpu["temperatureCelsius"]),
        _text(gpu["powerWatts"]),
        share,
        _memory(gpu),
        _text(gpu["smClockMhz"]),
    )
    inside = {process["pid"] for instance in gpu["instances"] for process in instance["processes"]}
    users = _users(process for process in gpu["processes"] if process["pid"] not in inside)
    yield _row(_GPU_HEAD, (f"{gpu['index']}", _product(gpu), *sensors, xid, users))
    for instance in gpu["instances"]:
        ratio = instance["graphicsRatio"]
        used: str | _Share = "" if ratio is None else _Share(f"{ratio * 100:.0f}", ratio)
        name = f"{instance['profile']} #{instance['giId']}"
        cells = (name, "", "", "", used, _memory(instance), "", "", _users(instance["processes"]))
        yield _row(_GPU_HEAD, cells, "i")


def _product(gpu: Mapping[str, Any]) -> str:
    return str(gpu["product"]).removeprefix("NVIDIA ")


def _users(processes: Iterable[Mapping[str, Any]]) -> str:
    return _shortened(", ".join(f"{process['pod'] or process['name']} ({process['pid']})" for process in processes))


def _memory(device: Mapping[str, Any]) -> str | _Share:
    used, total = device["memoryUsedMib"], device["memoryTotalMib"]
    text = f"{_text(used)} / {_text(total)}"
    return _Share(text, used / total) if used is not None and total else text


def _shortened(text: str) -> str:
    return text if len(text) <= _USER_CHARACTERS else f"{text[: _USER_CHARACTERS - 1]}…"


def _port_row(port: Mapping[str, Any]) -> str:
    rate = f"{port['rateBytesPerSecond'] * 8 / 1e9:.0f}" if port["rateBytesPerSecond"] else ""
    sent, received = (
        f"{port[key] / 1e9:.1f}" if port[key] is not None else "" for key in ("sentBytes", "receivedBytes")
    )
    cells = (f"{port['device']}/{port['port']}", port["state"], port["netdev"], port["rail"], port["gpu"])
    return _row(_PORT_HEAD, (*cells, rate, sent, received), "" if port["state"] == "ACTIVE" else "bad")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
