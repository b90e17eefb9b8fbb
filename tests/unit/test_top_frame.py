"""The picture of `nodeagent top`: never wider than the terminal, what is wrong first, slices with who is on them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from metrics_view import full_view
from nodeagent.cli.output import Style
from nodeagent.cli.top import window
from nodeagent.cli.top_frame import GPU_COLUMNS, Cell, bar, fitting, frame
from nodeagent.metrics.document import telemetry_document
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict

PLAIN, COLORS = re.compile(r"\x1b\[\d+m"), Style(enabled=True)
LOST = Finding(
    Subject(SubjectKind.GPU, "GPU-1"), "gpu-on-bus", Verdict.FAILED, "it fell off the bus", advice="reset it"
)


def view(**more):
    return replace(full_view(), health=Health((LOST,), 1790000000.0), **more)


def text(width: int = 0, seen=None, enabled: bool = False, before=None) -> str:
    document = telemetry_document(seen or view())
    return frame(document, before, Style(enabled=enabled, width=width), 1.0)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("enabled", [False, True])
def test_no_line_is_wider_than_the_terminal(width, enabled):
    lines = PLAIN.sub("", text(width, enabled=enabled)).split("\n")
    assert max(map(len, lines)) <= width
    assert any(line.startswith("GPU") for line in lines)


def test_without_a_terminal_nothing_is_cut_and_nothing_is_coloured():
    shown = text()
    assert "…" not in shown
    assert "\x1b" not in shown
    assert PLAIN.sub("", text(0, enabled=True)) == shown


def test_what_is_wrong_stands_first():
    lines = text(seen=view(samples=full_view().samples[:1])).split("\n")
    assert lines[1].startswith("2 GPUs, 1 silent, 0.65 kW · 3 ports, 1 down")
    assert lines[2] == "failed: gpu-on-bus of GPU 1: it fell off the bus"
    assert any(line.startswith("1 ") and line.endswith("does not answer") for line in lines)


def test_slices_say_who_is_on_them():
    (line,) = [line for line in text().split("\n") if line.startswith("1:1 ")]
    assert line.split()[1:] == [
        "1g.10gb",
        "@1",
        "50",
        "%",
        "#####.....",
        "2.0/9.5",
        "GiB",
        "##........",
        "triton",
        "(12)",
    ]
    (whole,) = [line for line in text().split("\n") if line.startswith("1  ")]
    assert "triton" not in whole, "a process stands where it is, not on the whole GPU as well"


def test_columns_go_by_rank_and_the_necessary_stay():
    rows = [[Cell("x" * 8)] * len(GPU_COLUMNS)]
    assert len(fitting(rows, GPU_COLUMNS, 0)) == len(GPU_COLUMNS)
    kept = [GPU_COLUMNS[place] for place in fitting(rows, GPU_COLUMNS, 60)]
    gone = [column.rank for column in GPU_COLUMNS if column not in kept]
    assert max(column.rank for column in kept) < min(gone)
    narrow = [GPU_COLUMNS[place].head for place in fitting(rows, GPU_COLUMNS, 5)]
    assert narrow == ["GPU", "UTIL", "MEMORY", "USED BY"]


def test_rates_of_ports_and_none_where_a_counter_began_anew():
    before = telemetry_document(view())
    moved = telemetry_document(view(now=full_view().now + 2))
    for port in moved["ports"]:
        port["sentBytes"] = (port["sentBytes"] or 0) + 20_000_000_000
        port["receivedBytes"] = 0
    shown = frame(moved, before, Style(enabled=False), 0.0)
    (line,) = [line for line in shown.split("\n") if line.startswith("mlx5_0/1")]
    assert line.split()[-3:] == ["10.00", "##........", "-"]


def test_bars():
    assert [bar(share) for share in (None, -1, 0, 0.5, 2)] == ["", "." * 10, "." * 10, "#####.....", "#" * 10]


def test_a_long_picture_is_scrolled():
    lines = [str(number) for number in range(10)]
    assert window(lines, 10, 3) == (lines, 0)
    assert window(lines, 4, 0) == (["0", "1", "2", "lines 1 to 3 of 10: arrow and page keys"], 0)
    assert window(lines, 4, 99) == (["7", "8", "9", "lines 8 to 10 of 10: arrow and page keys"], 7)
    assert window(lines, 4, -5)[1] == 0
    assert window(lines, -1, 0) == (lines, 0), "a terminal that does not say its height"
