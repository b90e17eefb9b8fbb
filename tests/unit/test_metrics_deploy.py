"""What is shipped beside the agent agrees with it: the reference page, dashboards, rules."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dashboard_units import UNITS
from metrics_view import full_view
from nodeagent.metrics.catalogue import KNOWN_FAMILIES
from nodeagent.metrics.health_metrics import HEALTH_FAMILIES
from nodeagent.metrics.netdev_metrics import STATISTICS
from nodeagent.metrics.options import Options
from nodeagent.metrics.reference import MARK, catalogue_tables
from nodeagent.metrics.render import blocks
from nodeagent.simulation.tree_network import COUNTERS

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
NAME = re.compile(r"\b(?:DCGM_FI|nodeagent|process)_\w+\b")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Families that the agent can show, with the counters that RDMA drivers commonly have."""
    shown = {block.family.name for block in blocks(full_view(Options(families=frozenset(KNOWN_FAMILIES))))}
    ports = {f"nodeagent_rdma_port_{name.removeprefix('port_')}_total" for name, _, _ in COUNTERS}
    health = {family.name for family, _ in HEALTH_FAMILIES}
    return shown | ports | health | {family.name for family in STATISTICS}


def names_in(expression: str) -> set[str]:
    """Metric names in a query: without strings, and without names of recorded series."""
    plain = re.sub(r'"[^"]*"|\b\w+(?::\w+)+\b', "", expression)
    return set(NAME.findall(plain))


def test_the_reference_is_fresh():
    """To renew: write nodeagent.metrics.reference.catalogue_tables() below the mark."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert text.split(MARK)[1].strip() == catalogue_tables().strip()


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_dashboards_use_what_there_is(board, known):
    panels = [panel for panel in json.loads(board.read_text())["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) >= 8
    assert set().union(*map(names_in, expressions)) <= known


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_dashboards_are_put_together_well(board):
    """Each place is taken once, what is broken stands first, and a person learns what a number means."""
    panels = json.loads(board.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels:
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        assert defaults.get("unit", "none") in UNITS
        if panel["type"] == "stat" and defaults["thresholds"]["steps"][1:]:
            assert panel["description"] or panel["title"].startswith("Links")
        if panel["type"] == "table":
            assert all(target["format"] == "table" and target["instant"] for target in panel["targets"])


def test_dashboards_are_five_with_names_of_their_own():
    assert [board.stem for board in BOARDS] == ["agent", "gpu", "mig", "node", "roce"]
    assert len({json.loads(board.read_text())["uid"] for board in BOARDS}) == 5


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_dashboards_have_pictures(board):
    """Small ones; the page about them shows each and says how to make them anew."""
    picture = ROOT / "docs" / "pictures" / f"dashboard-{board.stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000
    text = (ROOT / "docs" / "dashboards.md").read_text()
    assert f"(pictures/{picture.name})" in text
    assert "python tests/dashboard_pictures.py" in text


def test_rules_use_what_there_is(known):
    groups = yaml.safe_load(RULES.read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    assert set().union(*map(names_in, expressions)) <= known


def test_rules_fire_when_they_should():
    tests = [str(path) for path in sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yaml"))]
    for command in (["check", "rules", str(RULES)], ["test", "rules", *tests]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
