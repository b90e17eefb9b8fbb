"""Plans as text: every folder of tests/data/plans holds a node file with a state (case.py) and the wish it comes to."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from nodeagent.resources import kernel_modules, mig

CASES = sorted(path.parent for path in (Path(__file__).parents[1] / "data" / "plans").glob("*/case.py"))


def text_of(wish):
    """The wish as lines: steps with unit, reason and claims, then obstacles, then remarks."""
    lines = []
    for step in wish.steps:
        claims = f" claiming {', '.join(map(str, step.claims))}" if step.claims else ""
        lines.append(f"{step}\n    {step.unit}: {step.reason}; disturbs {step.disturbs}{claims}")
    for one in wish.obstacles:
        kind = "waiting" if one.waits else "obstacle"
        lines.append(f"{kind} {one.unit}, {one.subject}: {one.problem}; {one.advice or 'no advice'}")
    lines += [f"remark: {remark}" for remark in wish.remarks]
    return "".join(f"{line}\n" for line in lines) or "nothing to do\n"


def planned(folder):
    case = runpy.run_path(str(folder / "case.py"))
    return "".join(text_of(resource.plan(case["SPEC"], case["STATE"])) for resource in (kernel_modules, mig))


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_plan(folder):
    assert planned(folder) == (folder / "plan.txt").read_text()


def test_every_case_has_both_files():
    assert CASES
    folders = (Path(__file__).parents[1] / "data" / "plans").iterdir()
    assert all((folder / "plan.txt").is_file() for folder in folders if (folder / "case.py").is_file())
