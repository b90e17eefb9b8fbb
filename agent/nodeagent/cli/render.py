"""Plans and outcomes as text that reads like a good diff, made from their documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nodeagent.cli.output import Style

_MARKS = {"+": "good", "-": "bad", "~": "warn"}
_PHASES = (("quiesce", "quiesce"), ("acts", "act"), ("restore", "restore"))


def plan_text(document: Mapping[str, Any], style: Style) -> str:
    """What would be done, why, what it disturbs, what is in the way."""
    lines = [_headline(document, style)]
    for number, transition in enumerate(document["transitions"], 1):
        lines += ["", *_transition(number, transition, style)]
    if document["blocked"]:
        lines += ["", style("bold", "blocked, will not be touched"), *_blocked(document["blocked"], style)]
    if document["obstacles"]:
        lines += ["", style("bold", "cannot be done as things are"), *_obstacles(document["obstacles"], style)]
    if document["remarks"]:
        lines += ["", *(style("dim", f"note: {remark}") for remark in document["remarks"])]
    return "\n".join(lines)


def _headline(document: Mapping[str, Any], style: Style) -> str:
    if document["converged"]:
        return style("good", "nothing to do: the node is as the file says")
    parts = [f"{document['steps']} step(s) in {len(document['transitions'])} transition(s)"]
    if document["blocked"]:
        parts.append(style("bad", f"{len(document['blocked'])} blocked"))
    if document["obstacles"]:
        parts.append(style("warn", f"{len(document['obstacles'])} obstacle(s)"))
    return "plan: " + ", ".join(parts)


def _transition(number: int, transition: Mapping[str, Any], style: Style) -> Iterable[str]:
    title = "bring back what an interrupted run took away" if transition["owed"] else f"transition {number}"
    disturbs = ", ".join(transition["disturbs"])
    yield style("bold", title) + (style("warn", f"  needs quiet: {disturbs}") if disturbs else "")
    for key, label in _PHASES:
        for index, step in enumerate(transition[key]):
            yield _step(label if index == 0 else "", step, style)
    for blocker in transition["disturbed"]:
        yield style("warn", f"  disturbs {blocker['text']}, {blocker['via']}")
    for thing in transition["leftDown"]:
        yield style("warn", f"  stays down: {thing}")


def _step(label: str, step: Mapping[str, Any], style: Style) -> str:
    mark = style(_MARKS[step["change"]], f"{step['change']} {step['step']}")
    padding = " " * max(1, 56 - len(step["step"]))
    reason = style("dim", padding + step["reason"]) if step["reason"] else ""
    return f"  {label:<8} {mark}{reason}"


def _blocked(entries: Iterable[Mapping[str, Any]], style: Style) -> Iterable[str]:
    for entry in entries:
        yield f"  {style('bad', '! ' + entry['step'])}: {entry['cause']}"
        for blocker in entry["blockers"]:
            yield f"      by {style('bold', blocker['text'])}, {blocker['via']}"


def _obstacles(entries: Iterable[Mapping[str, Any]], style: Style) -> Iterable[str]:
    for entry in entries:
        mark = style("dim", "… ") if entry["waits"] else style("bad", "x ")
        advice = f"; {entry['advice']}" if entry["advice"] else ""
        yield f"  {mark}{entry['subject']}: {entry['problem']}{advice}"
