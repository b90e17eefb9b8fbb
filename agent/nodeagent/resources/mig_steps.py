"""The steps on MIG: change the mode of a GPU, create and destroy GPU instances, and compute instances inside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs, Step
from nodeagent.resources.mig_compute import in_terms_of, width, widths
from nodeagent.resources.mig_names import device_name
from nodeagent.resources.mig_placement import FILLS
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
class _OneGpuInstance(Step):
    """A step on one GPU instance: its place in memory slices, and the widths of its compute instances."""

    profile: str
    placement: Placement
    compute: tuple[int, ...] = ()

    def _as(self, kind: type[_OneGpuInstance]) -> Step:
        """The step of the other kind on the same instance, which undoes this one."""
        return kind(**vars(self) | {"reason": "undo"})


@dataclass(frozen=True, kw_only=True)
class _OneComputeInstance(Step):
    """A step on one compute instance, at `compute` (compute slices) in the GPU instance at `placement`."""

    profile: str
    placement: Placement
    width: int
    compute: Placement

    def _as(self, kind: type[_OneComputeInstance]) -> Step:
        """The step of the other kind on the same instance, which undoes this one."""
        return kind(**vars(self) | {"reason": "undo"})


@dataclass(frozen=True, kw_only=True)
class CreateGpuInstance(_OneGpuInstance):
    """Create a GPU instance at this placement in memory slices, with compute instances of these widths.

    Without `compute` it has the one that fills it.
    """

    def __str__(self) -> str:
        return f"create {self.profile} at {self.placement.start}{_parts(self.compute)} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.create_gpu_instance(self.subject.name, self.profile, self.placement, self.compute)

    def undo(self) -> Step | None:
        return self._as(DestroyGpuInstance)

    def satisfied(self, state: NodeState) -> bool:
        found = _instance(state, self.subject, self.profile, self.placement)
        return found is not None and Counter(widths(found)) == Counter(in_terms_of(found, self.compute or (FILLS,)))


@dataclass(frozen=True, kw_only=True)
class DestroyGpuInstance(_OneGpuInstance):
    """Destroy the GPU instance at this placement with its compute instances; the driver refuses while it is in use.

    `compute` are the widths of its compute instances, so that undoing brings back what was there.
    """

    def __str__(self) -> str:
        return f"destroy {self.profile} at {self.placement.start} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.destroy_gpu_instance(self.subject.name, self.placement)

    def undo(self) -> Step:
        return self._as(CreateGpuInstance)

    def satisfied(self, state: NodeState) -> bool:
        return _instance(state, self.subject, self.profile, self.placement) is None

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.GPU


@dataclass(frozen=True, kw_only=True)
class CreateComputeInstance(_OneComputeInstance):
    """Create a compute instance at `compute` (compute slices) in the GPU instance at `placement` (memory slices)."""

    def __str__(self) -> str:
        return f"create {_name(self)} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.create_compute_instance(self.subject.name, self.placement, self.width, self.compute)

    def undo(self) -> Step:
        return self._as(DestroyComputeInstance)

    def satisfied(self, state: NodeState) -> bool:
        return _has_compute(state, self)


@dataclass(frozen=True, kw_only=True)
class DestroyComputeInstance(_OneComputeInstance):
    """Destroy a compute instance and leave its GPU instance; the driver refuses while it is in use."""

    def __str__(self) -> str:
        return f"destroy {_name(self)} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.destroy_compute_instance(self.subject.name, self.placement, self.compute)

    def undo(self) -> Step:
        return self._as(CreateComputeInstance)

    def satisfied(self, state: NodeState) -> bool:
        return not _has_compute(state, self)

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.GPU


def _name(step: _OneComputeInstance) -> str:
    name = device_name(step.profile, step.width) if step.width else "the whole compute instance"
    return f"{name} at {step.compute.start} in {step.profile} at {step.placement.start}"


def _parts(compute: tuple[int, ...]) -> str:
    return f" as {' + '.join(f'{one}c' if one else 'whole' for one in compute)}" if compute else ""


def _instance(state: NodeState, subject: Thing, profile: str, placement: Placement) -> GpuInstance | None:
    found = state.gpus.get(subject.name)
    instances = found.instances if found else ()
    return next((one for one in instances if one.placement == placement and one.profile == profile), None)


def _has_compute(state: NodeState, step: _OneComputeInstance) -> bool:
    found = _instance(state, step.subject, step.profile, step.placement)
    if found is None:
        return False
    (wanted,) = in_terms_of(found, (step.width,))
    return any(
        width(one, found) == wanted and one.placement in (step.compute, Placement(0, 0))
        for one in found.compute_instances
    )
