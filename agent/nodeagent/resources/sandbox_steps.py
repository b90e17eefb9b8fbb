"""The steps that take a function from its driver for a virtual machine, and give it to VFIO or back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs, Step
from nodeagent.resources.sriov_steps import BindFunction
from nodeagent.state.things import Thing, gpu

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

VFIO_DRIVERS = frozenset({"vfio-pci", "nvgrace_gpu_vfio_pci", "mlx5_vfio_pci"})


@dataclass(frozen=True, kw_only=True)
class GiveFunction(BindFunction):
    """Give a function to VFIO, or with driver "" back to its own; `uuid` is the GPU that it is, if it is one."""

    kind: Disturbs
    uuid: str = ""

    def __str__(self) -> str:
        return f"give {self.subject.name} {f'to {self.driver}' if self.driver else 'back to its own driver'}"

    def undo(self) -> Step:
        driver = self.before if self.before in VFIO_DRIVERS else ""
        return GiveFunction(
            subject=self.subject, unit=self.unit, reason="undo", driver=driver, before=self.driver, kind=self.kind
        )

    def satisfied(self, state: NodeState) -> bool:
        found = state.pci.get(self.subject.name)
        if found is None:
            return False
        given = VFIO_DRIVERS.isdisjoint((found.driver, found.driver_override))
        return found.driver == self.driver if self.driver else given

    @property
    def disturbs(self) -> Disturbs:
        return self.kind if self.before else Disturbs.NOTHING

    @property
    def claims(self) -> tuple[Thing, ...]:
        return _claims(self.subject, self.uuid) if self.before else ()


@dataclass(frozen=True, kw_only=True)
class ReleaseFunction(Step):
    """Take a function from its driver and mark it for `driver`: a group can only be given away when all are free."""

    driver: str
    before: str
    kind: Disturbs
    uuid: str = ""

    def __str__(self) -> str:
        return f"take {self.subject.name} from {self.before}"

    def apply(self, host: Host) -> None:
        host.links.functions.release(self.subject.name, self.driver)

    def undo(self) -> Step:
        return GiveFunction(
            subject=self.subject, unit=self.unit, reason="undo", driver="", before=self.driver, kind=self.kind
        )

    def satisfied(self, state: NodeState) -> bool:
        found = state.pci.get(self.subject.name)
        return found is not None and found.driver_override == self.driver and found.driver in ("", self.driver)

    @property
    def disturbs(self) -> Disturbs:
        return self.kind

    @property
    def claims(self) -> tuple[Thing, ...]:
        return _claims(self.subject, self.uuid)


def _claims(subject: Thing, uuid: str) -> tuple[Thing, ...]:
    return (subject, gpu(uuid)) if uuid else (subject,)
