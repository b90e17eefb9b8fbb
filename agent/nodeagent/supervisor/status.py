"""What the agent says of itself: one immutable status per pass, as a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodeagent import __version__
from nodeagent.plan.convergence import Outcome
from nodeagent.plan.document import SCHEMA_VERSION, failure_document, plan_document


@dataclass(frozen=True)
class Identity:
    """Who is running: PID, host name, simulated profile ("" on a real node), node file, start (Unix seconds)."""

    pid: int
    hostname: str
    simulated: str
    file: str
    started_unix_seconds: float
    metrics: str = ""


@dataclass(frozen=True)
class Pass:
    """One finished pass: why it ran, when it ended, how long it took, and how it ended."""

    outcome: Outcome
    reasons: tuple[str, ...]
    ended_unix_seconds: float
    duration_seconds: float


@dataclass(frozen=True)
class Status:
    """Everything a reader may know, replaced as a whole."""

    identity: Identity
    last: Pass | None = None
    passes: int = 0
    spec_error: str = ""
    trouble: str = ""
    postponed: Mapping[str, str] = field(default_factory=dict)
    failures_total: Mapping[str, int] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()

    @property
    def condition(self) -> str:
        """One word: starting, converged, blocked, failing or waiting."""
        if self.last is None:
            return "starting"
        plan = self.last.outcome.plan
        if self.trouble or self.last.outcome.failures or self.postponed:
            return "failing"
        if plan.converged:
            return "converged"
        return "blocked" if any(entry.blockers for entry in plan.blocked) else "waiting"

    @property
    def line(self) -> str:
        """One line for the service manager."""
        if self.last is None:
            return "starting"
        outcome = self.last.outcome
        text = f"{self.condition}: {len(outcome.state.gpus)} GPUs, {len(outcome.state.rdma)} RDMA devices"
        waiting = len(outcome.plan.blocked) + len(outcome.plan.obstacles)
        return text + (f", {waiting} thing(s) in the way" if waiting else "")


def status_document(status: Status) -> dict[str, Any]:
    """The status with stable keys; `lastPass` is null until the first pass has ended."""
    identity = status.identity
    return {
        "schemaVersion": SCHEMA_VERSION,
        "condition": status.condition,
        "version": __version__,
        "pid": identity.pid,
        "hostname": identity.hostname,
        "simulated": identity.simulated,
        "file": identity.file,
        "specError": status.spec_error,
        "trouble": status.trouble,
        "degraded": list(status.degraded),
        "metrics": identity.metrics,
        "startedUnixSeconds": identity.started_unix_seconds,
        "passes": status.passes,
        "postponed": dict(status.postponed),
        "failuresTotal": dict(status.failures_total),
        "lastPass": _pass_document(status.last) if status.last else None,
    }


def _pass_document(last: Pass) -> dict[str, Any]:
    outcome = last.outcome
    return {
        "reasons": list(last.reasons),
        "endedUnixSeconds": last.ended_unix_seconds,
        "durationSeconds": round(last.duration_seconds, 6),
        "rounds": outcome.rounds,
        "stepsTaken": outcome.steps_taken,
        "failures": [failure_document(failure) for failure in outcome.failures],
        "plan": plan_document(outcome.plan),
        "gpus": len(outcome.state.gpus),
        "rdmaDevices": len(outcome.state.rdma),
        "unknown": [f"{item.what}: {item.reason}" for item in outcome.state.unknown],
    }
