"""Reading a node in order to adopt it: the file that says it as it is, and the proof that a plan from it is empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodeagent.plan.convergence import goal_of, survey
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.resources.adoption import adopted, notes_on
from nodeagent.spec.reader import parse_spec
from nodeagent.spec.render import render


@dataclass(frozen=True)
class Adoption:
    """A document of a node file, its comments by path, and what a plan made from it would still change or miss."""

    document: Mapping[str, Any]
    notes: Mapping[str, str]
    differences: tuple[str, ...]


def adopt_node(observer: Observer) -> Adoption:
    """The node as a node file. Reads, and changes nothing."""
    state = observer.observe((), with_roce=True)
    document = adopted(state)
    _, plan = survey(observer, goal_of(parse_spec(render(document), "the adopted file")))
    return Adoption(document, notes_on(document, state), tuple(_differences(plan)))


def _differences(plan: Plan) -> list[str]:
    acts = [str(step) for transition in plan.transitions for step in transition.acts]
    return [*acts, *(f"{entry.step}: {entry.cause}" for entry in plan.blocked), *map(str, plan.obstacles)]
