"""What a step is: one change to the node as a value that can be printed, compared, journalled, applied and undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nodeagent.state.things import Thing

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState


class Disturbs(StrEnum):
    """What running work a step may hit; the disruption policy of the node file is per kind."""

    NOTHING = "nothing"
    GPU = "gpu"
    NIC = "nic"
    NODE = "node"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change to one subject.

    `unit` names what is undone and backed off together, such as "modules/nvidia" or "mig/GPU-…". `reason` says in the
    user's words why. The class must be registered in `resources.STEPS` so that the journal can bring it back.
    """

    subject: Thing
    unit: str
    reason: str = ""

    def __str__(self) -> str:
        raise NotImplementedError

    def apply(self, host: Host) -> None:
        """Do it with one port call; raise a HostError kind when the host refuses."""
        raise NotImplementedError

    def undo(self) -> Step | None:
        """The step that puts back what this one changed, None where nothing can or need be put back."""
        return None

    def satisfied(self, state: NodeState) -> bool:
        """Whether the node already is as this step would leave it."""
        raise NotImplementedError

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NOTHING

    @property
    def claims(self) -> tuple[Thing, ...]:
        """What must be quiet while this step runs: nothing may stand on it, directly or not."""
        return ()

    @property
    def after(self) -> tuple[Thing, ...]:
        """Subjects that must be in place first; if a step on one of them is blocked or fails, so is this one."""
        return ()

    @property
    def rests_on(self) -> tuple[Thing, ...]:
        """What it was made from as observed: where the same plan changes that, its unit waits for the next look."""
        return ()

    @property
    def irreplaceable(self) -> bool:
        """Whether it brings back what nothing else knows of: owed, it stays owed until the node is seen to have it."""
        return False

    @property
    def gone(self) -> tuple[Thing, ...]:
        """Things that are no longer there after this step."""
        return ()

    @property
    def resets(self) -> tuple[Thing, ...]:
        """Things that stay and lose what was set on them: all of it is brought back after the step."""
        return ()

    @property
    def back(self) -> tuple[Thing, ...]:
        """Things that are there after this step."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SettingStep(Step):
    """A step that writes `wanted` where `before` is, and is undone by writing `before` again.

    The class of the step says of which type both are, for the journal to bring them back.
    """

    wanted: Any
    before: Any

    def undo(self) -> Step:
        return replace(self, wanted=self.before, before=self.wanted, reason="undo")


@dataclass(frozen=True, kw_only=True)
class LinkStep(Step):
    """A step on an interface that its users may notice: `disturbed` is what stands on it, if they do."""

    disturbed: tuple[str, ...] = ()

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NIC if self.disturbed else Disturbs.NOTHING

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,) if self.disturbed else ()


@dataclass(frozen=True, kw_only=True)
class NicStep(Step):
    """A step on a NIC or a device of it during which nothing may stand on that: its users would lose it."""

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NIC

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,)


@dataclass(frozen=True)
class Obstacle:
    """A wish of the node file that cannot become steps now: what, why, and what would help. It is never an exception.

    `waits` is True where time or another step may solve it (a driver that has yet to be loaded).
    """

    unit: str
    subject: Thing
    problem: str
    advice: str = ""
    waits: bool = False


@dataclass(frozen=True)
class Wish:
    """What one section of the node file comes to on this node: steps in order, obstacles, remarks on decisions taken.

    `decided` are the subjects that the node file has a say in, whether or not they need a step: what an interrupted
    run owes to one of them is no longer due.
    """

    steps: tuple[Step, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    remarks: tuple[str, ...] = ()
    decided: tuple[Thing, ...] = ()
