"""Steps that make our own holders let go and bring them back: services, the NVML worker, offers to pods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Step
from nodeagent.state.things import Thing

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState


@dataclass(frozen=True, kw_only=True)
class StopService(Step):
    def __str__(self) -> str:
        return f"stop service {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.services.stop(self.subject.name)

    def undo(self) -> Step:
        return StartService(subject=self.subject, unit=self.unit, reason="undo")

    def satisfied(self, state: NodeState) -> bool:
        found = state.services.get(self.subject.name)
        return found is None or not found.active


@dataclass(frozen=True, kw_only=True)
class StartService(Step):
    """Start a unit again; `needs` is what it must stand on."""

    needs: tuple[Thing, ...] = ()

    def __str__(self) -> str:
        return f"start service {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.services.start(self.subject.name)

    def satisfied(self, state: NodeState) -> bool:
        found = state.services.get(self.subject.name)
        return found is not None and found.active

    @property
    def after(self) -> tuple[Thing, ...]:
        return self.needs


@dataclass(frozen=True, kw_only=True)
class ReleaseNvml(Step):
    """Close our NVML session, so that no device file of ours is open; it reopens by itself at the next observation."""

    def __str__(self) -> str:
        return "let go of NVML"

    def apply(self, host: Host) -> None:
        host.nvml.release()

    def undo(self) -> Step:
        return ResumeNvml(subject=self.subject, unit=self.unit, reason="undo")

    def satisfied(self, state: NodeState) -> bool:
        return state.nvml_pid is None


@dataclass(frozen=True, kw_only=True)
class ResumeNvml(Step):
    """NVML may be used again; the session opens with the next observation."""

    def __str__(self) -> str:
        return "use NVML again"

    def apply(self, host: Host) -> None:
        """Nothing to do: sessions are opened on demand."""

    def satisfied(self, _state: NodeState) -> bool:
        return True  # a fresh worker is always allowed


@dataclass(frozen=True, kw_only=True)
class WithdrawGpu(Step):
    """Pods get nothing of this GPU or function until it is offered again; the kubelet is told at once."""

    def __str__(self) -> str:
        return f"withdraw {self.subject.name} from pods"

    def apply(self, host: Host) -> None:
        host.offering.withdraw(self.subject.name)

    def undo(self) -> Step:
        return OfferGpu(subject=self.subject, unit=self.unit, reason="undo")

    def satisfied(self, state: NodeState) -> bool:
        return self.subject.name not in state.offered


@dataclass(frozen=True, kw_only=True)
class OfferGpu(Step):
    """Pods may get what the next look at it finds."""

    def __str__(self) -> str:
        return f"offer {self.subject.name} to pods again"

    def apply(self, host: Host) -> None:
        host.offering.restore(self.subject.name)

    def satisfied(self, _state: NodeState) -> bool:
        return True  # an agent that starts has withdrawn nothing
