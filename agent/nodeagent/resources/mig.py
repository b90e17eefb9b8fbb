"""The MIG section: mode, GPU instances and compute instances of each GPU that an entry names; with the least change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.mig_compute import widths
from nodeagent.resources.mig_conflict import in_the_way, possible_instead
from nodeagent.resources.mig_layout import Layout, arrange_any
from nodeagent.resources.mig_names import UnknownNameError
from nodeagent.resources.mig_placement import FILLS, Board, refusal
from nodeagent.resources.mig_selection import select
from nodeagent.resources.mig_steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    SetMigMode,
)
from nodeagent.resources.mig_wanted import Wants, leaves_instances, wanted_mode, wants_of
from nodeagent.spec.schema import MigDrift
from nodeagent.state.gpu import MigMode
from nodeagent.state.pods import users_of
from nodeagent.state.things import gpu, module

if TYPE_CHECKING:
    from nodeagent.spec.schema import MigEntry, NodeSpec
    from nodeagent.state.gpu import Gpu, GpuInstance
    from nodeagent.state.node import NodeState

__all__ = [
    "CreateComputeInstance",
    "CreateGpuInstance",
    "DestroyComputeInstance",
    "DestroyGpuInstance",
    "SetMigMode",
    "plan",
]

DRIVER = "nvidia"


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """What the MIG section comes to on this node; steps of one GPU stay together and in order."""
    if not spec.mig:
        return Wish()
    if not state.gpus:
        return Wish(obstacles=(_without_gpus(spec, state),))
    unread = [one.what for one in state.unknown if one.what.startswith("GPU")]
    selection = select(spec.mig, state.gpus.values(), unread, state.gpus_on_record)
    wishes = [_by_policy(entry, _Wishes(one, entry, state).wish(), one) for one, entry in selection.chosen]
    chosen = zip(selection.chosen, wishes, strict=True)
    decided = tuple(gpu(one.uuid) for (one, entry), wish in chosen if _says_all(entry) and not wish.obstacles)
    return Wish(
        steps=tuple(step for wish in wishes for step in wish.steps),
        obstacles=selection.obstacles + tuple(obstacle for wish in wishes for obstacle in wish.obstacles),
        remarks=selection.remarks + tuple(remark for wish in wishes for remark in wish.remarks),
        decided=decided,
    )


def _says_all(entry: MigEntry) -> bool:
    """Whether nothing about the GPU is left as it is, so that what an interrupted run owes to it is no longer due."""
    return wanted_mode(entry) is MigMode.DISABLED or not leaves_instances(entry)


def _without_gpus(spec: NodeSpec, state: NodeState) -> Obstacle:
    if state.is_loaded(DRIVER):
        reasons = "; ".join(f"{one.what}: {one.reason}" for one in state.unknown) or "NVML lists no GPU"
        return Obstacle("mig", module(DRIVER), f"the driver shows no GPUs ({reasons})", waits=True)
    if spec.modules is not None and spec.modules.nvidia is not None:
        return Obstacle("mig", module(DRIVER), "MIG has to wait for the driver, which is not loaded", waits=True)
    return Obstacle("mig", module(DRIVER), "the driver is not loaded", "add modules.nvidia to the node file")


def _by_policy(entry: MigEntry, wish: Wish, one: Gpu) -> Wish:
    """Where the entry says `drift: report`, what would be done is only said."""
    if entry.drift is MigDrift.REPAIR or not wish.steps:
        return wish
    steps = "; ".join(str(step).removesuffix(f" on {one.uuid}") for step in wish.steps)
    problem = f"not as the file says, and drift: report leaves it so: {steps}"
    return Wish(obstacles=(Obstacle(f"mig/{one.uuid}", gpu(one.uuid), problem, "`nodeagent mig apply` does it"),))


@dataclass(frozen=True)
class _Wishes:
    """One GPU with its entry."""

    gpu: Gpu
    entry: MigEntry
    state: NodeState

    def wish(self) -> Wish:
        if self.gpu.mig_mode is MigMode.UNSUPPORTED:
            return self._refuse(f"{self.gpu.product} cannot do MIG", "take this GPU out of the entry")
        if wanted_mode(self.entry) is MigMode.DISABLED:
            return self._disabled()
        return self._enabled()

    def _disabled(self) -> Wish:
        if any((self.entry.devices or {}).values()) or self.entry.instances:
            return self._refuse("mode disabled and devices exclude each other", "enable MIG or leave devices out")
        in_use = [one for one in self.gpu.instances if one.in_use]
        if in_use:
            return self._refuse(f"MIG cannot go, in use: {self._users(in_use)}", _end(in_use), waits=True)
        change = self._mode_change(enabled=False)
        if isinstance(change, Wish):
            return change
        gone = self.gpu.instances if change else ()
        return Wish(steps=(*self._destroy(gone, "MIG is to be disabled"), *change))

    def _enabled(self) -> Wish:
        change = self._mode_change(enabled=True)
        if isinstance(change, Wish):
            return change
        if leaves_instances(self.entry):
            return Wish(steps=change)
        if not self.gpu.profiles:
            return self._without_profiles(change)
        try:
            wants = wants_of(self.entry, self.gpu.profiles)
        except UnknownNameError as error:
            return self._refuse(f"{self.gpu.product}: {error.problem}", error.advice)
        instances = self._instances(wants)
        return Wish((*change, *instances.steps), instances.obstacles) if not instances.obstacles else instances

    def _without_profiles(self, change: tuple[Step, ...]) -> Wish:
        """Some drivers list profiles only while MIG is on (NVML field 199): then the instances are the next round."""
        if change:
            text = f"{self.gpu.uuid}: the driver lists its MIG profiles once MIG is on, instances follow then"
            return Wish(steps=change, remarks=(text,))
        return self._refuse("the driver lists no MIG profiles", waits=True)

    def _mode_change(self, *, enabled: bool) -> tuple[Step, ...] | Wish:
        """The step that changes the mode, none if it is right and nothing is pending."""
        wanted = MigMode.ENABLED if enabled else MigMode.DISABLED
        if self.gpu.mig_mode is wanted and self.gpu.pending_mig_mode is wanted:
            return ()
        now = self.gpu.mig_mode
        takes_effect = now is not wanted
        if takes_effect and self.gpu.needs_reboot and self.gpu.pending_mig_mode is wanted:
            pending = f"MIG is {now}, {wanted} is pending"
            return self._refuse(f"{pending}, and this GPU cannot be reset while the node runs", "reboot")
        users = users_of(self.gpu, self.state.processes)
        if takes_effect and self.gpu.resetless_mig and users:
            return self._refuse(f"the MIG mode cannot change under {users}", "end them", waits=True)
        pending = "" if self.gpu.pending_mig_mode is now else f", pending {self.gpu.pending_mig_mode}"
        return (
            SetMigMode(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=f"mode is {now}{pending}, wanted is {wanted}",
                enabled=enabled,
                needs_reset=takes_effect and not self.gpu.resetless_mig,
            ),
        )

    def _instances(self, wants: Wants) -> Wish:
        """Destroy and create until exactly the wanted instances are there; nothing at all if that cannot be reached."""
        reason = refusal(self._board, wants.alternatives[0])
        if reason:
            return self._refuse(f"{wants.text} do not fit: {reason}", "ask for fewer or smaller instances")
        layout = arrange_any(self._board, wants.alternatives, self.gpu.instances)
        if layout is None:
            return self._obstructed(wants)
        return Wish(steps=(*self._less(layout, wants), *self._more(layout, wants)))

    def _obstructed(self, wants: Wants) -> Wish:
        """Who is in the way, and what could be had with them in place."""
        blocking = in_the_way(self._board, wants.alternatives, self.gpu.instances)
        text = f"{wants.text} do not fit beside what is in use: {self._users(blocking)}"
        instead = possible_instead(self._board, wants.alternatives[0], self.gpu.instances)
        return self._refuse(text, f"{_end(blocking)}, or wish for {instead}, which can be had now", waits=True)

    def _less(self, layout: Layout, wants: Wants) -> tuple[Step, ...]:
        reason = f"wanted are {wants.text}"
        compute = tuple(
            DestroyComputeInstance(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=reason,
                profile=one.profile,
                placement=one.placement,
                width=width,
                compute=place,
            )
            for one, change in layout.keep
            for width, place in change.gone
        )
        return (*compute, *self._destroy(layout.destroy, reason))

    def _more(self, layout: Layout, wants: Wants) -> tuple[Step, ...]:
        reason = f"wanted are {wants.text}"
        created = tuple(
            CreateGpuInstance(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=reason,
                profile=slot.profile,
                placement=slot.placement,
                compute=() if one.compute == (FILLS,) else one.compute,
            )
            for one, slot in layout.create
        )
        compute = tuple(
            CreateComputeInstance(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=reason if one.compute_instances else "the GPU instance has no compute instance",
                profile=one.profile,
                placement=one.placement,
                width=width,
                compute=place,
            )
            for one, change in layout.keep
            for width, place in change.create
        )
        return (*created, *compute)

    def _destroy(self, instances: Iterable[GpuInstance], reason: str) -> tuple[Step, ...]:
        return tuple(
            DestroyGpuInstance(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=reason if one.compute_instances else f"{reason}, and it has no compute instance",
                profile=one.profile,
                placement=one.placement,
                compute=() if Counter(widths(one)) == {FILLS: 1} else widths(one),
            )
            for one in sorted(instances, key=lambda one: one.placement)
        )

    @cached_property
    def _board(self) -> Board:
        return Board.of(self.gpu.profiles, self.gpu.instances)

    @property
    def _unit(self) -> str:
        return f"mig/{self.gpu.uuid}"

    def _users(self, instances: Iterable[GpuInstance]) -> str:
        known = self.state.processes
        return "; ".join(f"{one.profile} at {one.placement.start} by {users_of(one, known)}" for one in instances)

    def _refuse(self, problem: str, advice: str = "", *, waits: bool = False) -> Wish:
        return Wish(obstacles=(Obstacle(self._unit, gpu(self.gpu.uuid), problem, advice, waits=waits),))


def _end(used: Iterable[GpuInstance]) -> str:
    """What whoever wants the layout has to do about them."""
    used = tuple(used)
    kinds = (("processes", any(one.pids for one in used)), ("pods", any(one.pods for one in used)))
    return f"end these {' and '.join(name for name, there in kinds if there)}"
