"""How each kind of holder that is ours is made to let go, and how it comes back."""

from __future__ import annotations

from collections.abc import Iterable

from nodeagent.plan.parking import PARKED, keep, restores
from nodeagent.resources.base import Step
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.resources.quiet_steps import OfferGpu, ReleaseNvml, ResumeNvml, StartService, StopService, WithdrawGpu
from nodeagent.state.node import NodeState
from nodeagent.state.things import Hold, Kind, Thing

UNIT = "quiet"

# Units known to hold GPUs or the RDMA stack, which may be stopped and started again (drivers.md 3 and 13).
KNOWN_SERVICES = (
    "nvidia-persistenced.service",
    "nvidia-dcgm.service",
    "dcgm-exporter.service",
    "nvidia-fabricmanager.service",
    "nvidia-imex.service",
    "nvsm.service",
    "ibacm.service",
    "srp_daemon.service",
)


def quiesce_step(thing: Thing, state: NodeState) -> Step:
    """The step that takes an owned holder away."""
    if thing.kind in PARKED:
        return keep(thing)
    if thing.kind is Kind.MODULE:
        return UnloadModule(
            subject=thing, unit=UNIT, reason="stands on what changes", options=_options(thing.name, state)
        )
    if thing.kind is Kind.SERVICE:
        return StopService(subject=thing, unit=UNIT, reason="holds what changes")
    if thing.kind is Kind.OFFER:
        return WithdrawGpu(subject=thing, unit=UNIT, reason="is about to change")
    return ReleaseNvml(subject=thing, unit=UNIT, reason="holds what changes")


def counterparts(step: Step, holds: Iterable[Hold], state: NodeState) -> tuple[Step, ...]:
    """The steps that bring back what a quiesce step took away, in order."""
    if step.subject.kind in PARKED:
        return restores(step.subject, holds, state)
    return (_counterpart(step, holds),)


def _counterpart(step: Step, holds: Iterable[Hold]) -> Step:
    """It needs the modules the holder stood on."""
    needs = tuple(dict.fromkeys(h.held for h in holds if h.holder == step.subject and h.held.kind is Kind.MODULE))
    if isinstance(step, UnloadModule):
        names = tuple(thing.name for thing in needs)
        return LoadModule(
            subject=step.subject, unit=UNIT, reason="was loaded before", options=step.options, needs=names
        )
    if isinstance(step, StopService):
        return StartService(subject=step.subject, unit=UNIT, reason="was running before", needs=needs)
    if isinstance(step, WithdrawGpu):
        return OfferGpu(subject=step.subject, unit=UNIT, reason="was offered before")
    return ResumeNvml(subject=step.subject, unit=UNIT, reason="was in use before")


def _options(name: str, state: NodeState) -> str:
    """Options the module was loaded with: our own record, else what modprobe would give it."""
    recorded = state.loaded_options.get(name)
    if recorded is not None:
        return recorded
    file = state.module_files.get(name)
    return file.options if file else ""
