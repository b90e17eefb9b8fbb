"""The alerts as somebody on call meets them: each says what to do, has a section to read, and tests both ways."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from nodeagent.cli import VERBS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GROUPS = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
TESTS = yaml.safe_load((DEPLOY / "prometheus" / "tests" / "rules_test.yaml").read_text())["tests"]
PAGE = ROOT / "docs" / "alerts.md"


def anchors(path: Path) -> set[str]:
    """The anchors that a Git host makes of the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def verbs_in(text: str) -> set[str]:
    """What stands behind the command's name in a text, where it is lower case and no path or unit."""
    return set(re.findall(r"(?<![-/\w])nodeagent ([a-z-]+)", text))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do_and_where_to_read(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert "$labels.instance" in said["summary"]
    assert verbs_in(said["description"])
    assert verbs_in(said["description"]) <= VERBS.keys()
    file, _, anchor = said["runbook_url"].partition("#")
    assert anchor == name.lower()
    assert anchor in anchors(ROOT / file)


def test_every_section_is_about_an_alert_there_is():
    sections = re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_to_fire_and_not_to_fire(name):
    outcomes = {
        bool(one.get("exp_alerts")) for test in TESTS for one in test["alert_rule_test"] if one["alertname"] == name
    }
    assert outcomes == {True, False}


def test_recorded_series_are_tested():
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    asked = " ".join(one["expr"] for test in TESTS for one in test.get("promql_expr_test", ()))
    assert {name for name in recorded if name not in asked} == set()


def test_links_between_pages_lead_somewhere():
    for path in (PAGE, ROOT / "docs" / "metrics.md", ROOT / "docs" / "dashboards.md"):
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            file, _, anchor = target.partition("#")
            found = (path.parent / file) if file else path
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("board", sorted((DEPLOY / "grafana").glob("*.json")), ids=lambda path: path.stem)
def test_panels_name_commands_there_are(board):
    panels = json.loads(board.read_text())["panels"]
    found = set().union(*(verbs_in(panel.get("description", "")) for panel in panels))
    assert found <= VERBS.keys()
