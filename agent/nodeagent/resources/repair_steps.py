"""The steps of repair: reset a GPU and give back its instances, bind a NIC anew, drain the node in Slurm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs, NicStep, Step
from nodeagent.resources.mig_steps import CreateGpuInstance
from nodeagent.resources.sriov_steps import BindFunction
from nodeagent.state.things import Kind, Thing, gpu

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState


def instance_thing(uuid: str, start: int) -> Thing:
    """The place of a GPU instance, as something that goes with a reset and comes back."""
    return Thing(Kind.GPU, f"{uuid}/{start}")


@dataclass(frozen=True, kw_only=True)
class ResetGpu(Step):
    """Reset a GPU: all that runs on it would end, so nobody may have it. `starts` are the places of its instances.

    `peers` are GPUs that must be quiet as well, where the driver wants all linked work drained.
    """

    pci_address: str
    starts: tuple[int, ...] = ()
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"reset {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.nvml.reset_gpu(self.pci_address)

    def satisfied(self, _state: NodeState) -> bool:
        return False  # a reset leaves nothing that one could look at

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.GPU

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject, *(gpu(uuid) for uuid in self.peers))

    @property
    def gone(self) -> tuple[Thing, ...]:
        return tuple(instance_thing(self.subject.name, start) for start in self.starts)


@dataclass(frozen=True, kw_only=True)
class RestoreGpuInstance(CreateGpuInstance):
    """Give back an instance that went with a reset; owed until it is seen, because the node file may not name it."""

    def __str__(self) -> str:
        return f"give back {self.profile} at {self.placement.start} on {self.subject.name}"

    def undo(self) -> Step | None:
        """What came back stays, whatever happens to the others."""
        return None

    @property
    def irreplaceable(self) -> bool:
        return True

    @property
    def back(self) -> tuple[Thing, ...]:
        return (instance_thing(self.subject.name, self.placement.start),)


@dataclass(frozen=True, kw_only=True)
class RebindNic(NicStep, BindFunction):
    """Take a physical function from its driver and give it back; its interfaces and virtual functions come back."""

    @property
    def gone(self) -> tuple[Thing, ...]:
        return (self.subject,)

    @property
    def back(self) -> tuple[Thing, ...]:
        return (self.subject,)

    @property
    def resets(self) -> tuple[Thing, ...]:
        return (self.subject,)


@dataclass(frozen=True, kw_only=True)
class DrainInSlurm(Step):
    """Drain the node with our own reason; a drain of somebody else stays as it is. The subject is the node's name."""

    why: str

    def __str__(self) -> str:
        return f"drain {self.subject.name} in Slurm"

    def apply(self, host: Host) -> None:
        host.slurm.drain(self.subject.name, self.why)

    def satisfied(self, _state: NodeState) -> bool:
        return False  # Slurm is not part of the node's state


@dataclass(frozen=True, kw_only=True)
class LiftDrain(Step):
    """Take our own drain away; one with another reason stays."""

    def __str__(self) -> str:
        return f"lift our drain of {self.subject.name} in Slurm"

    def apply(self, host: Host) -> None:
        host.slurm.lift(self.subject.name)

    def satisfied(self, _state: NodeState) -> bool:
        return False  # Slurm is not part of the node's state
