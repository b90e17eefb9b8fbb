"""The MIG section: mode and GPU instances of every GPU that an entry names, with the least change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.mig_placement import Layout, Slot, arrange, refusal
from nodeagent.resources.mig_selection import select
from nodeagent.resources.mig_steps import CreateGpuInstance, DestroyGpuInstance, SetMigMode
from nodeagent.state.gpu import MigMode
from nodeagent.state.things import gpu, module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.spec.schema import MigEntry, NodeSpec
    from nodeagent.state.gpu import Gpu, GpuInstance
    from nodeagent.state.node import NodeState

__all__ = ["CreateGpuInstance", "DestroyGpuInstance", "SetMigMode", "plan"]

DRIVER = "nvidia"


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """What the MIG section comes to on this node; steps of one GPU stay together and in order."""
    if not spec.mig:
        return Wish()
    if not state.gpus:
        return Wish(obstacles=(_without_gpus(spec, state),))
    selection = select(spec.mig, state.gpus.values())
    wishes = [_Wishes(one, entry, state).wish() for one, entry in selection.chosen]
    return Wish(
        steps=tuple(step for wish in wishes for step in wish.steps),
        obstacles=selection.obstacles + tuple(obstacle for wish in wishes for obstacle in wish.obstacles),
        remarks=selection.remarks + tuple(remark for wish in wishes for remark in wish.remarks),
        decided=tuple(gpu(one.uuid) for one, _ in selection.chosen),
    )


def _without_gpus(spec: NodeSpec, state: NodeState) -> Obstacle:
    if state.is_loaded(DRIVER):
        reasons = "; ".join(f"{one.what}: {one.reason}" for one in state.unknown) or "NVML lists no GPU"
        return Obstacle("mig", module(DRIVER), f"the driver shows no GPUs ({reasons})", waits=True)
    if spec.modules is not None and spec.modules.nvidia is not None:
        return Obstacle("mig", module(DRIVER), "MIG has to wait for the driver, which is not loaded", waits=True)
    return Obstacle("mig", module(DRIVER), "the driver is not loaded", "add modules.nvidia to the node file")


@dataclass(frozen=True)
class _Wishes:
    """One GPU with its entry."""

    gpu: Gpu
    entry: MigEntry
    state: NodeState

    def wish(self) -> Wish:
        if self.gpu.mig_mode is MigMode.UNSUPPORTED:
            return self._refuse(f"{self.gpu.product} cannot do MIG", "take this GPU out of the entry")
        if self.entry.mode is MigMode.DISABLED:
            return self._disabled()
        return self._enabled()

    def _disabled(self) -> Wish:
        if any((self.entry.devices or {}).values()):
            return self._refuse("mode disabled and devices exclude each other", "enable MIG or leave devices out")
        in_use = [one for one in self.gpu.instances if one.pids]
        if in_use:
            return self._refuse(f"MIG cannot go, in use: {self._users(in_use)}", "end these processes", waits=True)
        change = self._mode_change(enabled=False)
        if isinstance(change, Wish):
            return change
        gone = [Slot(one.placement, one.profile) for one in self.gpu.instances] if change else []
        return Wish(steps=(*self._destroy(gone, "MIG is to be disabled"), *change))

    def _enabled(self) -> Wish:
        change = self._mode_change(enabled=True)
        if isinstance(change, Wish):
            return change
        if self.entry.devices is None:
            return Wish(steps=change)
        if not self.gpu.profiles:
            return self._without_profiles(change)
        instances = self._instances({name: count for name, count in self.entry.devices.items() if count})
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
        if takes_effect and self.gpu.resetless_mig and self.gpu.pids:
            return self._refuse(
                f"the MIG mode cannot change under {self._names(self.gpu.pids)}", "end them", waits=True
            )
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

    def _instances(self, wanted: Mapping[str, int]) -> Wish:
        """Destroy and create until exactly the wanted instances are there; nothing at all if that cannot be reached."""
        known = {one.name for one in self.gpu.profiles}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            names = sorted(known)
            return self._refuse(f"{self.gpu.product} has no profile {', '.join(unknown)}", f"it has {', '.join(names)}")
        reason = refusal(self.gpu.profiles, wanted)
        if reason:
            return self._refuse(f"{_listing(wanted)} do not fit: {reason}", "ask for fewer or smaller instances")
        busy = [one for one in self.gpu.instances if one.pids]
        layout = self._layout(wanted, busy)
        if layout is None:
            text = f"{_listing(wanted)} do not fit beside what is in use: {self._users(busy)}"
            return self._refuse(text, "end these processes, or wish for what they use", waits=True)
        gone = self._destroy((*self._orphans(), *layout.destroy), f"wanted are {_listing(wanted) or 'none'}")
        return Wish(steps=(*gone, *self._create(layout.create, wanted)))

    def _layout(self, wanted: Mapping[str, int], busy: Sequence[GpuInstance]) -> Layout | None:
        stuck = [Slot(one.placement, one.profile) for one in busy]
        if any(
            sum(slot.profile == name for slot in stuck) > wanted.get(name, 0) for name in {s.profile for s in stuck}
        ):
            return None
        idle = [
            Slot(one.placement, one.profile) for one in self.gpu.instances if not one.pids and one.compute_instances
        ]
        return arrange(self.gpu.profiles, wanted, stuck, idle)

    def _orphans(self) -> tuple[Slot, ...]:
        """GPU instances without a compute instance: no device for anyone, yet they take room."""
        return tuple(Slot(one.placement, one.profile) for one in self.gpu.instances if not one.compute_instances)

    def _destroy(self, slots: Iterable[Slot], reason: str) -> tuple[Step, ...]:
        return tuple(
            DestroyGpuInstance(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=reason,
                profile=slot.profile,
                placement=slot.placement,
            )
            for slot in sorted(slots)
        )

    def _create(self, slots: Iterable[Slot], wanted: Mapping[str, int]) -> tuple[Step, ...]:
        return tuple(
            CreateGpuInstance(
                subject=gpu(self.gpu.uuid),
                unit=self._unit,
                reason=f"wanted are {_listing(wanted)}",
                profile=slot.profile,
                placement=slot.placement,
            )
            for slot in slots
        )

    @property
    def _unit(self) -> str:
        return f"mig/{self.gpu.uuid}"

    def _users(self, instances: Iterable[GpuInstance]) -> str:
        return "; ".join(f"{one.profile} at {one.placement.start} by {self._names(one.pids)}" for one in instances)

    def _names(self, pids: Iterable[int]) -> str:
        known = self.state.processes
        return ", ".join(str(known[pid]) if pid in known else f"process {pid}" for pid in sorted(set(pids)))

    def _refuse(self, problem: str, advice: str = "", *, waits: bool = False) -> Wish:
        return Wish(obstacles=(Obstacle(self._unit, gpu(self.gpu.uuid), problem, advice, waits=waits),))


def _listing(wanted: Mapping[str, int]) -> str:
    return " + ".join(f"{count} x {name}" for name, count in wanted.items())
