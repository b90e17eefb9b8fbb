"""Plans and outcomes as text that reads like a good diff, made from their documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from nodeagent.cli.output import Style, count, subject_text, with_short_gpus

_MARKS = {"+": "good", "-": "bad", "~": "warn"}
_PHASES = (("quiesce", "quiesce"), ("acts", "act"), ("restore", "restore"))
_WIDEST_STEP = 60
_MANY = 3  # plain transitions in a row that are shown as one
_STEP_COLUMN = 13  # where the step begins, behind the phase and the mark
AS_THE_FILE_SAYS = "the node is as the file says"
_NO_INDICES: Mapping[str, int] = MappingProxyType({})


def plan_text(
    document: Mapping[str, Any],
    style: Style,
    title: str = "plan",
    indices: Mapping[str, int] = _NO_INDICES,
    wished: str = AS_THE_FILE_SAYS,
) -> str:
    """What would be done, why, what it disturbs, what is in the way; `indices` are those of the GPUs by UUID.

    `wished` is what an empty plan means.
    """
    document = with_short_gpus(document, indices)
    lines = [_headline(document, style, title, wished)]
    for name, transition in _titled(document["transitions"]):
        lines += ["", *_transition(name, transition, style)]
    if document["blocked"]:
        lines += ["", style("bold", "blocked, will not be touched"), *_blocked(document["blocked"], style)]
    if document["obstacles"]:
        waits = all(entry["waits"] for entry in document["obstacles"])
        heading = "has to wait" if waits else "cannot be done as things are"
        lines += ["", style("bold", heading), *_obstacles(document["obstacles"], style)]
    if document["remarks"]:
        lines.append("")
    for remark in document["remarks"]:
        lines += [style("dim", line) for line in style.wrap(f"note: {remark}", 6)]
    return "\n".join(lines)


def _headline(document: Mapping[str, Any], style: Style, title: str, wished: str) -> str:
    if document["converged"]:
        return style("bold", title) + ": " + style("good", f"nothing to do, {wished}")
    transitions = document["transitions"]
    done = [f"{count(document['steps'], 'step')} in {count(len(transitions), 'transition')}"] if transitions else []
    blocked = len(document["blocked"])
    waiting = sum(entry["waits"] for entry in document["obstacles"])
    impossible = len(document["obstacles"]) - waiting
    if blocked:
        done.append(style("bad", f"{count(blocked, 'step')} blocked"))
    if impossible:
        done.append(style("bad", f"{impossible} impossible"))
    if waiting:
        done.append(style("warn", f"{waiting} waiting"))
    return style("bold", title) + ": " + ", ".join(done)


def _titled(transitions: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Transitions with their titles; many neighbours that need nothing quiet, such as links, stand under one title."""
    numbered = enumerate(transitions, 1)
    for plain, group in groupby(numbered, lambda entry: _is_plain(entry[1]) and entry[1]["disturbs"]):
        together = list(group)
        if plain is False or len(together) < _MANY:
            yield from ((_title(number, transition), transition) for number, transition in together)
        else:
            acts = [step for _, transition in together for step in transition["acts"]]
            yield f"transitions {together[0][0]} to {together[-1][0]}", {**together[0][1], "acts": acts}


def _is_plain(transition: Mapping[str, Any]) -> bool:
    return not any(transition[key] for key in ("quiesce", "restore", "disturbed", "leftDown", "owed"))


def _title(number: int, transition: Mapping[str, Any]) -> str:
    return "bring back what an interrupted run took away" if transition["owed"] else f"transition {number}"


def _transition(title: str, transition: Mapping[str, Any], style: Style) -> Iterable[str]:
    disturbs = ", ".join(transition["disturbs"])
    yield style("bold", title) + (style("warn", f"  needs quiet: {disturbs}") if disturbs else "")
    steps = [step for key, _ in _PHASES for step in transition[key]]
    width = min(max((len(step["step"]) for step in steps), default=0), _WIDEST_STEP)
    for key, label in _PHASES:
        for index, step in enumerate(transition[key]):
            yield from _step(label if index == 0 else "", step, width, style)
    for blocker in transition["disturbed"]:
        yield from (style("warn", line) for line in style.wrap(f"  disturbs {blocker['text']}, {blocker['via']}", 11))
    for thing in transition["leftDown"]:
        yield style("warn", f"  stays down: {thing}")


def _step(label: str, step: Mapping[str, Any], width: int, style: Style) -> Iterable[str]:
    """Reasons stand in one column; where the line would not fit the terminal, the reason is on a line below."""
    text, reason = step["step"], step["reason"]
    change = step["change"]
    line = f"  {label:<8} {style(_MARKS[change], f'{change} {text}')}"
    padding = " " * max(2, width + 2 - len(text))
    if not reason:
        yield line
    elif style.width and _STEP_COLUMN + len(text) + len(padding) + len(reason) > style.width:
        yield line
        yield style("dim", " " * (_STEP_COLUMN + 2) + reason)
    else:
        yield line + padding + style("dim", reason)


def _blocked(entries: Sequence[Mapping[str, Any]], style: Style) -> Iterable[str]:
    """Those with a cause of their own in full; those that only go with another of their unit as a number."""
    units: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        units.setdefault(entry["unit"], []).append(entry)
    for together in units.values():
        chief = next((entry for entry in together if entry["blockers"]), together[0])
        yield from _marked(style("bad", "!"), f"{chief['step']}: {chief['cause']}", style)
        for blocker in chief["blockers"]:
            yield from style.wrap(f"        by {blocker['text']}, {blocker['via']}", 11)
        if len(together) > 1:
            yield style("dim", f"        and {count(len(together) - 1, 'step')} that go with it")


def _obstacles(entries: Iterable[Mapping[str, Any]], style: Style) -> Iterable[str]:
    """Once for all subjects that share a problem."""
    shared: dict[tuple[str, str, bool], list[str]] = {}
    for entry in entries:
        shared.setdefault((entry["problem"], entry["advice"], entry["waits"]), []).append(
            subject_text(entry["subject"])
        )
    for (problem, advice, waits), subjects in shared.items():
        mark = style("dim", "…") if waits else style("bad", "x")
        tail = f"; {advice}" if advice else ""
        yield from _marked(mark, f"{', '.join(subjects)}: {problem}{tail}", style)


def _marked(mark: str, text: str, style: Style) -> Iterable[str]:
    first, *more = style.wrap(f"    {text}", 6)
    yield f"  {mark} {first[4:]}"
    yield from more
