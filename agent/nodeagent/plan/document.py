"""Plans and outcomes as plain documents with stable keys: what -o json prints and the control socket serves."""

from __future__ import annotations

from typing import Any

from nodeagent.plan.executor import Failure
from nodeagent.plan.model import Blocked, Blocker, Plan, Transition
from nodeagent.resources.base import Obstacle, Step

SCHEMA_VERSION = 1
_COMING = ("load", "create", "make", "start")
_GOING = ("unload", "destroy", "remove", "stop")


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan; `converged` is true when there is nothing to do and nothing in the way."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "converged": plan.converged,
        "steps": plan.step_count,
        "transitions": [_transition(transition) for transition in plan.transitions],
        "blocked": [_blocked(entry) for entry in plan.blocked],
        "obstacles": [_obstacle(obstacle) for obstacle in plan.obstacles],
        "remarks": list(plan.remarks),
        "owed": [step_document(step) for step in plan.owed],
    }


def failure_document(failure: Failure) -> dict[str, Any]:
    return {
        "phase": failure.phase.value,
        **step_document(failure.step),
        "error": type(failure.error).__name__,
        "message": str(failure.error),
        "retryable": failure.error.retryable,
    }


def step_document(step: Step) -> dict[str, Any]:
    """`change` is + for something that comes, - for something that goes, ~ for a change."""
    return {
        "step": str(step),
        "subject": str(step.subject),
        "unit": step.unit,
        "reason": step.reason,
        "change": _change(step),
        "disturbs": step.disturbs.value,
    }


def _change(step: Step) -> str:
    verb = str(step).partition(" ")[0]
    return "+" if step.back or verb in _COMING else "-" if step.gone or verb in _GOING else "~"


def _transition(transition: Transition) -> dict[str, Any]:
    return {
        "quiesce": [step_document(step) for step in transition.quiesce],
        "acts": [step_document(step) for step in transition.acts],
        "restore": [step_document(step) for step in transition.restore],
        "disturbs": sorted({step.disturbs.value for step in transition.acts} - {"nothing"}),
        "disturbed": [_blocker(blocker) for blocker in transition.disturbed],
        "leftDown": [str(thing) for thing in transition.left_down],
        "owed": transition.is_owed,
    }


def _blocked(entry: Blocked) -> dict[str, Any]:
    return {
        **step_document(entry.step),
        "cause": entry.cause,
        "blockers": [_blocker(blocker) for blocker in entry.blockers],
    }


def _blocker(blocker: Blocker) -> dict[str, Any]:
    return {
        "kind": blocker.thing.kind.value,
        "name": blocker.thing.name,
        "text": blocker.text,
        "via": blocker.via,
        "refuses": blocker.refuses,
    }


def _obstacle(obstacle: Obstacle) -> dict[str, Any]:
    return {
        "unit": obstacle.unit,
        "subject": str(obstacle.subject),
        "problem": obstacle.problem,
        "advice": obstacle.advice,
        "waits": obstacle.waits,
    }
