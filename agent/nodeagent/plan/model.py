"""What a plan is made of: transitions to carry out, and what stands in the way of the rest."""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.resources.base import Obstacle, Step
from nodeagent.state.things import Thing


@dataclass(frozen=True)
class Blocker:
    """Something foreign in the way of a step: `text` names it for a person, `via` says how it holds on.

    `refuses`: the kernel or driver would refuse. Otherwise it would merely be disturbed.
    """

    thing: Thing
    text: str
    via: str
    refuses: bool = True

    def __str__(self) -> str:
        return f"{self.text}, {self.via}"


@dataclass(frozen=True)
class Blocked:
    """A step that will not be taken now, and why: blockers, policy, an earlier failure, a blocked step before it."""

    step: Step
    cause: str
    blockers: tuple[Blocker, ...] = ()


@dataclass(frozen=True)
class Transition:
    """Steps that belong together: everything quiesced once, all acts, everything restored once, in reverse.

    `disturbed` is what will be disturbed by permission of the policy; `left_down` is what cannot come back because an
    act takes away what it stands on.
    """

    quiesce: tuple[Step, ...] = ()
    acts: tuple[Step, ...] = ()
    restore: tuple[Step, ...] = ()
    disturbed: tuple[Blocker, ...] = ()
    left_down: tuple[Thing, ...] = ()
    guarded: tuple[str, ...] = ()  # interfaces that must not be lost (guard in the node file)
    is_owed: bool = False  # brings back what an interrupted transition took away

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.quiesce + self.acts + self.restore


@dataclass(frozen=True)
class Plan:
    """The whole plan; empty means that the node is as the file says.

    `owed` is what an interrupted or failed transition took away and has not brought back yet, now or later to be done.
    """

    transitions: tuple[Transition, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    remarks: tuple[str, ...] = ()
    owed: tuple[Step, ...] = ()

    @property
    def converged(self) -> bool:
        return not (self.transitions or self.blocked or self.obstacles)

    @property
    def step_count(self) -> int:
        return sum(len(transition.steps) for transition in self.transitions)
