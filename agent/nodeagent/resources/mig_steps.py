"""The three steps on MIG: change the mode of a GPU, create a GPU instance, destroy one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs, Step
from nodeagent.state.gpu import MigMode, Placement

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.gpu import GpuInstance
    from nodeagent.state.node import NodeState
    from nodeagent.state.things import Thing


@dataclass(frozen=True, kw_only=True)
class SetMigMode(Step):
    """Change the MIG mode of a GPU; `needs_reset`: the GPU is reset, so nobody may have it open (NVML field 184)."""

    enabled: bool
    needs_reset: bool = True

    def __str__(self) -> str:
        return f"{'enable' if self.enabled else 'disable'} MIG on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.set_mig_mode(self.subject.name, self.enabled)

    def undo(self) -> Step:
        return SetMigMode(
            subject=self.subject,
            unit=self.unit,
            reason="undo",
            enabled=not self.enabled,
            needs_reset=self.needs_reset,
        )

    def satisfied(self, state: NodeState) -> bool:
        found = state.gpus.get(self.subject.name)
        wanted = MigMode.ENABLED if self.enabled else MigMode.DISABLED
        return found is not None and found.mig_mode is wanted and found.pending_mig_mode is wanted

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.GPU

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,) if self.needs_reset else ()


@dataclass(frozen=True, kw_only=True)
class CreateGpuInstance(Step):
    """Create a GPU instance, with one compute instance that fills it, at this placement in memory slices."""

    profile: str
    placement: Placement

    def __str__(self) -> str:
        return f"create {self.profile} at {self.placement.start} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.create_gpu_instance(self.subject.name, self.profile, self.placement)

    def undo(self) -> Step:
        return DestroyGpuInstance(
            subject=self.subject, unit=self.unit, reason="undo", profile=self.profile, placement=self.placement
        )

    def satisfied(self, state: NodeState) -> bool:
        found = _instance(state, self.subject, self.profile, self.placement)
        return found is not None and bool(found.compute_instances)


@dataclass(frozen=True, kw_only=True)
class DestroyGpuInstance(Step):
    """Destroy the GPU instance at this placement with its compute instances; the driver refuses while it is in use."""

    profile: str
    placement: Placement

    def __str__(self) -> str:
        return f"destroy {self.profile} at {self.placement.start} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.destroy_gpu_instance(self.subject.name, self.placement)

    def undo(self) -> Step:
        return CreateGpuInstance(
            subject=self.subject, unit=self.unit, reason="undo", profile=self.profile, placement=self.placement
        )

    def satisfied(self, state: NodeState) -> bool:
        return _instance(state, self.subject, self.profile, self.placement) is None

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.GPU


def _instance(state: NodeState, subject: Thing, profile: str, placement: Placement) -> GpuInstance | None:
    found = state.gpus.get(subject.name)
    instances = found.instances if found else ()
    return next((one for one in instances if one.placement == placement and one.profile == profile), None)
