"""What the agent says of itself: one immutable status per pass, as a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nodeagent import __version__
from nodeagent.plan.convergence import Outcome
from nodeagent.plan.document import SCHEMA_VERSION, failure_document, plan_document


class Condition(StrEnum):
    """How the node stands, in one word.

    starting: not looked at yet. converging: steps are being taken. converged: as the file says. blocked: somebody is in
    the way. waiting: nobody is, but something cannot be done now or may not be by policy. failing: a step or the
    observation failed, and is tried again later.
    """

    STARTING = "starting"
    CONVERGING = "converging"
    CONVERGED = "converged"
    BLOCKED = "blocked"
    WAITING = "waiting"
    FAILING = "failing"


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
    """Everything a reader may know, replaced as a whole.

    `step` is the step being taken, "" between transitions. `spec_error` says why the node file as it is now is not in
    force, `needs_restart` which of its keys come into force with the next start only. `trouble` says why the last pass
    could not be made at all; `last` is then the one before. `postponed` says by unit why it is not tried now.
    """

    identity: Identity
    last: Pass | None = None
    step: str = ""
    passes: int = 0
    spec_error: str = ""
    needs_restart: tuple[str, ...] = ()
    trouble: str = ""
    postponed: Mapping[str, str] = field(default_factory=dict)
    failures_total: Mapping[str, int] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()

    @property
    def condition(self) -> Condition:
        if self.step:
            return Condition.CONVERGING
        if self.trouble or self.postponed or (self.last and self.last.outcome.failures):
            return Condition.FAILING
        if self.last is None:
            return Condition.STARTING
        plan = self.last.outcome.plan
        if plan.converged:
            return Condition.CONVERGED
        return Condition.BLOCKED if any(entry.blockers for entry in plan.blocked) else Condition.WAITING

    @property
    def line(self) -> str:
        """One line for the service manager."""
        if self.step:
            return f"{self.condition}: {self.step}"
        if self.trouble or self.last is None:
            return f"{self.condition}: {self.trouble}" if self.trouble else str(self.condition)
        outcome = self.last.outcome
        text = f"{self.condition}: {len(outcome.state.gpus)} GPUs, {len(outcome.state.rdma)} RDMA devices"
        waiting = len(outcome.plan.blocked) + len(outcome.plan.obstacles)
        text += f", {waiting} in the way" if waiting else ""
        return text + (", the node file is wrong and not in force" if self.spec_error else "")


def status_document(status: Status, nvml_pid: int | None = None) -> dict[str, Any]:
    """The status with stable keys; `lastPass` is null until the node has been looked at.

    `nvmlPid` is the process that holds an NVML session for the agent, null while there is none.
    """
    identity = status.identity
    return {
        "schemaVersion": SCHEMA_VERSION,
        "condition": status.condition.value,
        "step": status.step,
        "version": __version__,
        "pid": identity.pid,
        "nvmlPid": nvml_pid,
        "hostname": identity.hostname,
        "simulated": identity.simulated,
        "file": identity.file,
        "specError": status.spec_error,
        "needsRestart": list(status.needs_restart),
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
        "gpuIndices": {uuid: found.index for uuid, found in outcome.state.gpus.items()},
        "rdmaDevices": len(outcome.state.rdma),
        "unknown": [f"{item.what}: {item.reason}" for item in outcome.state.unknown],
    }
