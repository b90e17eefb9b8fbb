"""The page at /: what the node is and how it does, for a person with a browser. No script, no foreign resource."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from nodeagent.metrics.document import telemetry_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from nodeagent.metrics.view import View

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2024 }
h1 { font-size: 1.4rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
p { margin: .2rem 0; color: #5b6570 } a { color: #1b6ac9 }
table { border-collapse: collapse }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #e2e6ea; white-space: nowrap }
th { font-weight: 600; color: #5b6570 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
tr.i td:first-child { padding-left: 1.2rem } .bad { color: #b3261e } .good { color: #1a7f37 }
@media (prefers-color-scheme: dark) {
  body { background: #14171a; color: #e4e7ea } th, p { color: #98a2ad } th, td { border-color: #2b3138 }
  a { color: #6cb2ff } .bad { color: #ff8a80 } .good { color: #6fdd8b } }
"""
_LINKS = '<p><a href="/metrics">metrics</a> · <a href="/healthz">healthz</a> · <a href="/readyz">readyz</a></p>'
_GPU_HEAD = ("GPU", "Product", "Temp °C", "Power W", "Util %", "Memory MiB", "SM MHz", "Last Xid")
_PORT_HEAD = ("Port", "State", "Interface", "Rail", "Nearest GPU", "Rate Gb/s", "Sent GB", "Received GB")
_NUMBERS = frozenset({"Temp °C", "Power W", "Util %", "Memory MiB", "SM MHz", "Rate Gb/s", "Sent GB", "Received GB"})


def empty_page() -> bytes:
    """The page before there is anything to show."""
    return _document("nodeagent", f"<h1>nodeagent</h1>{_LINKS}<p>nothing observed yet</p>")


def page(view: View) -> bytes:
    found = telemetry_document(view)
    simulated = f" (simulated {escape(found['simulated'])})" if found["simulated"] else ""
    parts = [f"<h1>{escape(found['hostname'])}{simulated}</h1>", _condition(found), _LINKS]
    if found["gpus"]:
        parts.append(_table("GPUs", _GPU_HEAD, [row for gpu in found["gpus"] for row in _gpu_rows(gpu)]))
    if found["ports"]:
        parts.append(_table("RDMA ports", _PORT_HEAD, [_port_row(port) for port in found["ports"]]))
    return _document(escape(found["hostname"]), "\n".join(parts))


def _document(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><meta http-equiv="refresh" content="15"><title>{title} · nodeagent</title>'
    text = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'
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


def _table(title: str, head: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(f'<th class="n">{name}</th>' if name in _NUMBERS else f"<th>{name}</th>" for name in head)
    return f"<h2>{title}</h2>\n<table><tr>{cells}</tr>\n" + "\n".join(rows) + "\n</table>"


def _row(head: Sequence[str], cells: Sequence[str], kind: str = "") -> str:
    inner = "".join(
        f'<td class="n">{escape(cell)}</td>' if name in _NUMBERS else f"<td>{escape(cell)}</td>"
        for name, cell in zip(head, cells, strict=True)
    )
    return f'<tr class="{kind}">{inner}</tr>'


def _gpu_rows(gpu: Mapping[str, Any]) -> Iterable[str]:
    if not gpu["up"]:
        yield _row(_GPU_HEAD, (f"{gpu['index']}", gpu["product"], *("no answer", "", "", "", ""), ""), "bad")
        return
    util = _text(gpu["utilizationPercent"])
    memory = f"{_text(gpu['memoryUsedMib'])} / {_text(gpu['memoryTotalMib'])}"
    sensors = (_text(gpu["temperatureCelsius"]), _text(gpu["powerWatts"]), util, memory, _text(gpu["smClockMhz"]))
    yield _row(_GPU_HEAD, (f"{gpu['index']}", gpu["product"], *sensors, _text(gpu["lastXid"] or None)))
    for instance in gpu["instances"]:
        memory = f"{_text(instance['memoryUsedMib'])} / {_text(instance['memoryTotalMib'])}"
        share = instance["graphicsRatio"]
        used = "" if share is None else f"{share * 100:.0f}"
        yield _row(_GPU_HEAD, ("", f"{instance['profile']} #{instance['giId']}", "", "", used, memory, "", ""), "i")


def _port_row(port: Mapping[str, Any]) -> str:
    rate = f"{port['rateBytesPerSecond'] * 8 / 1e9:.0f}" if port["rateBytesPerSecond"] else ""
    sent, received = (
        f"{port[key] / 1e9:.1f}" if port[key] is not None else "" for key in ("sentBytes", "receivedBytes")
    )
    cells = (f"{port['device']}/{port['port']}", port["state"], port["netdev"], port["rail"], port["gpu"])
    return _row(_PORT_HEAD, (*cells, rate, sent, received), "" if port["state"] == "ACTIVE" else "bad")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
