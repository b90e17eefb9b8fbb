"""The page at /: well-formed, for readers and phones as well, what is wrong first, contrast that can be read."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from metrics_view import full_view
from nodeagent.metrics import page as module
from nodeagent.metrics.page import empty_page, page
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict

LOST = Finding(
    Subject(SubjectKind.GPU, "GPU-1"), "gpu-on-bus", Verdict.FAILED, "it <fell>", advice="reset it", since=1790000000.0
)


def drawn(**more) -> str:
    return page(replace(full_view(), **{"health": Health((LOST,), 1790000000.0), **more})).decode()


def tree(text: str) -> ET.Element:
    """The page as XML: HTML's empty elements closed."""
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).removeprefix("<!DOCTYPE html>")
    return ET.fromstring(re.sub(r"<meta ([^>]*)>", r"<meta \1/>", body))


@pytest.mark.parametrize("text", [drawn(), empty_page().decode()], ids=["full", "empty"])
def test_the_page_is_well_formed_and_says_its_language(text):
    root = tree(text)
    assert root.get("lang") == "en"
    assert root.find("head/title").text
    assert root.find("head/meta[@name='viewport']").get("content").startswith("width=device-width")
    assert len(root.findall(".//h1")) == 1
    assert root.find("body/main") is not None
    assert "<script" not in text
    assert not re.search(r"(src|href)=.(https?:)?//", text), "nothing comes from elsewhere"


def test_tables_have_captions_heads_and_scroll_by_keyboard():
    root = tree(drawn())
    titles = [heading.text for heading in root.findall(".//h2")]
    assert titles == ["What is wrong", "GPUs", "RDMA ports"]
    assert [caption.text for caption in root.findall(".//caption")] == titles
    for around in root.findall(".//div[@role='region']"):
        assert around.get("tabindex") == "0"
        heads = around.findall("table/thead/tr/th")
        assert all(head.get("scope") == "col" for head in heads)
        assert {len(row) for row in around.findall("table/tbody/tr")} == {len(heads)}


def test_what_is_wrong_is_told_and_escaped():
    text = drawn()
    assert "it &lt;fell&gt;" in text
    assert "reset it" in text
    assert '<span class="bad">1 failed</span>' in text
    well = drawn(health=Health((), 1.0))
    assert "What is wrong" not in well
    many = drawn(health=Health((LOST,) * 25, 1.0))
    assert "and 5 more: nodeagent health" in many


def test_a_silent_gpu_keeps_its_row():
    text = drawn(samples=full_view().samples[:1])
    assert "<dt>GPUs that answer</dt><dd>1 of 2</dd>" in text
    assert "does not answer" in text


def test_a_process_stands_at_its_slice():
    rows = re.findall(r"<tr class=\"i\">.*?</tr>", drawn())
    assert [bool(re.search(r"triton \(12\)", row)) for row in rows] == [True, False]


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_stands_out_from_its_ground_by_day_and_by_night():
    day, night = module._STYLE.split("@media (prefers-color-scheme: dark)")
    ground = re.search(r"background: (#\w{6})", night)[1]
    for style, behind in ((day, "#ffffff"), (night, ground)):
        for color in re.findall(r"(?<![-\w])color: (#\w{6})", style):
            light, dark = sorted((luminance(color), luminance(behind)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, color
