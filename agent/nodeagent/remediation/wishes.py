"""What a decision comes to as steps on this node; pure. The sequencer finds who is in the way of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.file_steps import RemoveFile, WriteFile, file_thing
from nodeagent.resources.mig_compute import widths
from nodeagent.resources.module_verbs import plan_reload
from nodeagent.resources.repair_steps import DrainInSlurm, LiftDrain, RebindNic, ResetGpu, RestoreGpuInstance
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import Gpu
from nodeagent.state.health import Recovery
from nodeagent.state.node import NodeState
from nodeagent.state.repair import Decision, RepairAction, RepairMemory
from nodeagent.state.things import Kind, Thing, gpu, pci

DRAIN_TEXT = 200  # characters of a reason for Slurm


def wish_for(decision: Decision, spec: NodeSpec, state: NodeState) -> Wish:
    """Steps of the decision's action, or the obstacle that makes it impossible here."""
    plan = _PLANS.get(decision.action) if decision.action else None
    return plan(decision, spec, state) if plan else Wish()


def _reason(decision: Decision) -> str:
    return "repair: " + ", ".join(dict.fromkeys(one.check for one in decision.findings))


def _reset(decision: Decision, _spec: NodeSpec, state: NodeState) -> Wish:
    subject, unit = gpu(decision.subject.name), f"repair/{decision.subject.name}"
    found = state.gpus.get(decision.subject.name)
    if found is None:
        problem = "the GPU does not answer, so that nobody can say who uses it"
        return Wish(obstacles=(Obstacle(unit, subject, problem, "drain the node and reboot it"),))
    linked = any(one.recovery is Recovery.DRAIN_AND_RESET for one in decision.findings)
    reset = ResetGpu(
        subject=subject,
        unit=unit,
        reason=_reason(decision),
        pci_address=found.pci_address,
        starts=tuple(one.placement.start for one in found.instances),
        peers=tuple(sorted(set(state.gpus) - {found.uuid})) if linked else (),
    )
    return Wish((reset, *_instances(found, unit)))


def _instances(found: Gpu, unit: str) -> Iterator[Step]:
    for one in found.instances:
        yield RestoreGpuInstance(
            subject=gpu(found.uuid),
            unit=f"{unit}/{one.placement.start}",
            reason="was there before the reset",
            profile=one.profile,
            placement=one.placement,
            compute=widths(one),
        )


def _rebind(decision: Decision, _spec: NodeSpec, state: NodeState) -> Wish:
    address = decision.subject.pci_address
    subject, unit = pci(address), f"repair/{address}"
    found = state.pci.get(address)
    if found is None or not found.driver:
        problem = "it is not on the bus" if found is None else "it has no driver"
        return Wish(obstacles=(Obstacle(unit, subject, problem, "see `nodeagent show`"),))
    return Wish((RebindNic(subject=subject, unit=unit, reason=_reason(decision), driver="", before=found.driver),))


def _reload(_decision: Decision, spec: NodeSpec, state: NodeState) -> Wish:
    wish = plan_reload(spec.remediation.reload, state, spec)
    if wish.steps or wish.obstacles:
        return wish
    names = ", ".join(spec.remediation.reload)
    problem = f"nothing of {names} is loaded"
    return Wish(obstacles=(Obstacle("repair/modules", Thing(Kind.NODE, "node"), problem, "load it first"),))


_PLANS: Mapping[RepairAction, Callable[[Decision, NodeSpec, NodeState], Wish]] = {
    RepairAction.RESET_GPU: _reset,
    RepairAction.REBIND_NIC: _rebind,
    RepairAction.RELOAD_MODULES: _reload,
}


def reboot_wish(path: str, before: str | None, memory: RepairMemory) -> Wish:
    """The file that asks for a reboot is there while one is asked for; `before` is its text now."""
    wanted = f"{memory.reboot_asked}\n" if memory.reboot_asked else None
    subject, unit, what = file_thing(path), "repair/reboot", "the request for a reboot,"
    if wanted == before or (wanted is not None and before == wanted.rstrip("\n")):
        return Wish()
    if wanted is None:
        return Wish(
            (RemoveFile(subject=subject, unit=unit, reason="not needed any more", what=what, before=before or ""),)
        )
    return Wish(
        (WriteFile(subject=subject, unit=unit, reason="nothing less is left", what=what, text=wanted, before=before),)
    )


def drain_reason(spec: NodeSpec, memory: RepairMemory) -> str:
    """Why the node must be drained in Slurm, "" if it need not."""
    if not spec.remediation.quarantine.slurm:
        return ""
    return "; ".join(f"{one.subject}: {one.reason}" for one in memory.quarantines)[:DRAIN_TEXT]


def drain_wish(node: str, why: str, drained: str) -> Wish:
    """Drained for this reason, or our own drain lifted; `drained` is our reason until now."""
    subject, unit = Thing(Kind.NODE, node), "repair/slurm"
    if why == drained:
        return Wish()
    if why:
        return Wish((DrainInSlurm(subject=subject, unit=unit, reason="repair: quarantine", why=why),))
    return Wish((LiftDrain(subject=subject, unit=unit, reason="no device is in quarantine any more"),))
