"""Repair on the control socket: what it says, and the orders it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nodeagent.plan.document import SCHEMA_VERSION
from nodeagent.state.health import Subject
from nodeagent.state.repair import QUARANTINE, Attempt, Decision
from nodeagent.supervisor.repair import Preview, Repairs

Order = Callable[[str, int], Mapping[str, Any]]
# A wish for whoever taints nodes of a cluster; the label of this name is written by section `labels`.
TAINT = {"key": QUARANTINE, "value": "repair", "effect": "NoSchedule"}


def repair_document(repairs: Repairs) -> dict[str, Any]:
    """What is decided, done and remembered, with stable keys; times in Unix seconds."""
    memory, previews = repairs.memory, repairs.previews
    section = repairs.spec().remediation
    is_marked = bool(memory.quarantines or memory.reboot_asked)
    return {
        "schemaVersion": SCHEMA_VERSION,
        "mode": section.mode.value,
        "trouble": repairs.trouble,
        "paused": memory.paused,
        "rebootAsked": memory.reboot_asked,
        "decisions": [_decision(one, previews.get(one.identity)) for one in repairs.decisions],
        "quarantines": [
            {**_subject(one.subject), "reason": one.reason, "sinceUnixSeconds": one.since} for one in memory.quarantines
        ],
        "slurmDrain": memory.drained,
        "labels": {QUARANTINE: "true" if is_marked else "false"},
        "taints": [TAINT] if is_marked else [],
        "attempts": [_attempt(one) for one in memory.attempts],
    }


def _subject(subject: Subject) -> dict[str, Any]:
    return {"subject": str(subject), "kind": subject.kind.value, "name": subject.name, "pci": subject.pci_address}


def _decision(decision: Decision, preview: Preview | None) -> dict[str, Any]:
    return {
        "id": decision.identity,
        **_subject(decision.subject),
        "action": decision.action.value if decision.action else None,
        "standing": decision.standing.value,
        "reason": decision.reason,
        "findings": [{"subject": str(one.subject), "check": one.check} for one in decision.findings],
        "steps": list(preview.steps) if preview else [],
        "inTheWay": list(preview.in_the_way) if preview else [],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        **_subject(attempt.subject),
        "action": attempt.action.value,
        "checks": sorted({check for _, _, check in attempt.causes}),
        "outcome": attempt.outcome.value,
        "beganUnixSeconds": attempt.began,
        "endedUnixSeconds": attempt.ended,
        "text": attempt.text,
    }


def repair_orders(repairs: Repairs, wake: Callable[[], None]) -> Mapping[str, Order]:
    """Orders by path; each is about a decision, or about repair as a whole."""

    def answered(identity: str, uid: int, *, approved: bool) -> Mapping[str, Any]:
        decision = repairs.answer(identity, uid, approved=approved)
        wake()
        return _decision(decision, repairs.previews.get(identity))

    def paused(uid: int, *, is_paused: bool) -> Mapping[str, Any]:
        repairs.pause(uid, paused=is_paused)
        wake()
        return {"paused": repairs.memory.paused}

    return {
        "/v1/repair/approve": lambda identity, uid: answered(identity, uid, approved=True),
        "/v1/repair/deny": lambda identity, uid: answered(identity, uid, approved=False),
        "/v1/repair/pause": lambda _, uid: paused(uid, is_paused=True),
        "/v1/repair/resume": lambda _, uid: paused(uid, is_paused=False),
    }
