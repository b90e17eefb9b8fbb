"""A tiny pure model of MIG for planning tests: boards by published profile listings, and a driver that refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from nodeagent.resources.base import Step, Wish
from nodeagent.resources.mig import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    SetMigMode,
)
from nodeagent.resources.mig_compute import places_by_rule, width
from nodeagent.resources.mig_placement import Slot
from nodeagent.spec.schema import MigEntry, NodeSpec
from nodeagent.state.gpu import ComputeInstance, Gpu, GpuInstance, MediaEngines, MigMode, MigProfile, Placement
from nodeagent.state.node import NodeState

UUID = "GPU-00000000-0000-0000-0000-00000000000{}"


def _profile(name: str, number: int, limits: tuple[int, ...], starts: Iterable[int], size: int) -> MigProfile:
    """`limits` are compute slices, the largest count and media engines, `size` is in memory slices."""
    places = tuple(Placement(start, size) for start in starts)
    slices, count, *media = limits
    return MigProfile(name, number, slices, count, 4864 * size, places, media=MediaEngines(*media))


# MIG User Guide, A100-SXM4-40GB and A30
A100 = (
    _profile("1g.5gb", 19, (1, 7), range(7), 1),
    _profile("1g.5gb+me", 20, (1, 1, 1, 0, 1, 1), range(7), 1),
    _profile("1g.10gb", 15, (1, 4, 1), (0, 2, 4, 6), 2),
    _profile("2g.10gb", 14, (2, 3, 1), (0, 2, 4), 2),
    _profile("3g.20gb", 9, (3, 2, 2), (0, 4), 4),
    _profile("4g.20gb", 5, (4, 1, 2), (0,), 4),
    _profile("7g.40gb", 0, (7, 1, 5, 0, 1, 1), (0,), 8),
)
A30 = (
    _profile("1g.6gb", 14, (1, 4), range(4), 1),
    _profile("1g.6gb+me", 21, (1, 1, 1, 0, 1, 1), range(4), 1),
    _profile("2g.12gb", 5, (2, 2, 2), (0, 2), 2),
    _profile("2g.12gb+me", 6, (2, 1, 2, 0, 1, 1), (0, 2), 2),
    _profile("4g.24gb", 0, (4, 1, 4, 0, 1, 1), (0,), 4),
)


def all_layouts(profiles: tuple[MigProfile, ...]) -> list[frozenset[Slot]]:
    """Every set of instances that fits, by brute force over what the tables say, without the planner's search."""
    whole = max(profiles, key=lambda one: one.slice_count)
    by_name = {one.name: one for one in profiles}
    places = [Slot(place, one.name) for one in profiles for place in one.placements]
    found: list[frozenset[Slot]] = []

    def extend(chosen: tuple[Slot, ...], first: int, taken: frozenset[int], slices: int) -> None:
        counts = Counter(slot.profile for slot in chosen)
        engines = [vars(by_name[slot.profile].media) for slot in chosen]
        if (
            any(count > by_name[name].instance_count for name, count in counts.items())
            or slices > whole.slice_count
            or any(sum(one[kind] for one in engines) > there for kind, there in vars(whole.media).items())
        ):
            return
        found.append(frozenset(chosen))
        for index in range(first, len(places)):
            span = set(
                range(places[index].placement.start, places[index].placement.start + places[index].placement.size)
            )
            if not span & taken:
                one = by_name[places[index].profile]
                extend((*chosen, places[index]), index + 1, taken | span, slices + one.slice_count)

    extend((), 0, frozenset(), 0)
    return found


def multiset(layout: Iterable[Slot]) -> frozenset[tuple[str, int]]:
    """How many of each profile a layout has."""
    return frozenset(Counter(slot.profile for slot in layout).items())


def instance(slot: Slot, *pids: int, has_compute: bool = True) -> GpuInstance:
    """A GPU instance there, in use by these processes."""
    slices = next((one.slice_count for one in (*A100, *A30) if one.name == slot.profile), 0)
    compute = (ComputeInstance(slot.profile, 0, f"MIG-{slot}", pids, Placement(0, slices)),) if has_compute else ()
    return GpuInstance(slot.profile, 0, slot.placement, slot.placement.start, compute)


def shared(slot: Slot, *parts: tuple[int, int, tuple[int, ...]]) -> GpuInstance:
    """A GPU instance there with compute instances of (width, start, processes)."""
    slices = next(one.slice_count for one in A100 if one.name == slot.profile)
    compute = tuple(_compute(slot, wide, Placement(start, wide or slices), pids) for wide, start, pids in parts)
    return GpuInstance(slot.profile, 0, slot.placement, slot.placement.start, compute)


def _compute(slot: Slot, wide: int, place: Placement, pids: tuple[int, ...] = ()) -> ComputeInstance:
    name = f"{wide}c.{slot.profile}" if wide else slot.profile
    return ComputeInstance(name, place.start, f"MIG-{slot}-{place.start}", pids, place)


def board(index: int = 0, *instances: GpuInstance, **changes: object) -> Gpu:
    """An A100 with MIG on; `changes` replace single fields."""
    found = Gpu(
        uuid=UUID.format(index),
        index=index,
        minor=index,
        pci_address=f"0000:{index:02x}:00.0",
        product="NVIDIA A100-SXM4-40GB",
        memory_total_bytes=40 << 30,
        mig_mode=MigMode.ENABLED,
        pending_mig_mode=MigMode.ENABLED,
        profiles=A100,
        instances=instances,
    )
    return replace(found, **changes)


OFF = {"mig_mode": MigMode.DISABLED, "pending_mig_mode": MigMode.DISABLED}


def node(*gpus: Gpu, **changes: object) -> NodeState:
    """A node with these GPUs."""
    return replace(NodeState(gpus={one.uuid: one for one in gpus}), **changes)


def wants(*entries: MigEntry, **changes: object) -> NodeSpec:
    """A node file with only a MIG section."""
    return NodeSpec(version=1, mig=entries, **changes)


class RefusedError(AssertionError):
    """The model's driver refuses what the plan asks for."""


def apply(step: Step, state: NodeState) -> NodeState:
    """One step on the model, with the refusals of NVML."""
    found = state.gpus[step.subject.name]
    if isinstance(step, SetMigMode):
        if found.instances and not step.enabled:
            raise RefusedError("IN_USE")
        mode = MigMode.ENABLED if step.enabled else MigMode.DISABLED
        found = replace(found, mig_mode=mode, pending_mig_mode=mode, profiles=found.profiles or A100)
    elif isinstance(step, CreateGpuInstance):
        found = replace(found, instances=_created(found, Slot(step.placement, step.profile)))
        if step.compute:
            found = _filled(found, step)
    elif isinstance(step, DestroyGpuInstance):
        found = replace(found, instances=_destroyed(found, Slot(step.placement, step.profile)))
    else:
        assert isinstance(step, CreateComputeInstance | DestroyComputeInstance), step
        found = _with_compute(found, step)
    return replace(state, gpus={**state.gpus, found.uuid: found})


def _created(found: Gpu, slot: Slot) -> tuple[GpuInstance, ...]:
    layout = frozenset((*(Slot(one.placement, one.profile) for one in found.instances), slot))
    if found.mig_mode is not MigMode.ENABLED or len(layout) != len(found.instances) + 1 or layout not in _LEGAL:
        raise RefusedError("INSUFFICIENT_RESOURCES")
    return (*found.instances, instance(slot))


def _destroyed(found: Gpu, slot: Slot) -> tuple[GpuInstance, ...]:
    (one,) = (one for one in found.instances if Slot(one.placement, one.profile) == slot)
    if one.pids:
        raise RefusedError("IN_USE")
    return tuple(other for other in found.instances if other is not one)


def _filled(found: Gpu, step: CreateGpuInstance) -> Gpu:
    """The compute instances of a new GPU instance, at the first places where they fit together."""
    (one,) = (one for one in found.instances if one.placement == step.placement)
    found = replace(found, instances=tuple(other for other in found.instances if other is not one))
    slices = next(profile.slice_count for profile in found.profiles if profile.name == step.profile)
    taken: set[int] = set()
    made = []
    for wide in sorted(step.compute, reverse=True):
        place = next(place for place in places_by_rule(slices)[wide] if not taken & _span(place))
        taken |= _span(place)
        made.append(_compute(Slot(step.placement, step.profile), wide, place))
    return replace(found, instances=(*found.instances, replace(one, compute_instances=tuple(made))))


def _span(place: Placement) -> set[int]:
    return set(range(place.start, place.start + place.size))


def _with_compute(found: Gpu, step: CreateComputeInstance | DestroyComputeInstance) -> Gpu:
    (one,) = (one for one in found.instances if one.placement == step.placement and one.profile == step.profile)
    there = one.compute_instances
    if isinstance(step, DestroyComputeInstance):
        at = (compute for compute in there if compute.placement == step.compute)
        (gone,) = (compute for compute in at if width(compute, one) == step.width)
        if gone.pids:
            raise RefusedError("IN_USE")
        there = tuple(compute for compute in there if compute is not gone)
    else:
        slices = next(profile.slice_count for profile in found.profiles if profile.name == step.profile)
        taken = {index for compute in there for index in _span(compute.placement)}
        if taken & _span(step.compute) or step.compute not in places_by_rule(slices)[step.width]:
            raise RefusedError("INSUFFICIENT_RESOURCES")
        there = (*there, _compute(Slot(one.placement, one.profile), step.width, step.compute))
    new = replace(one, compute_instances=there)
    return replace(found, instances=tuple(new if other is one else other for other in found.instances))


A100_LAYOUTS = all_layouts(A100)
A30_LAYOUTS = all_layouts(A30)
_LEGAL = frozenset(A100_LAYOUTS)


def apply_wish(wish: Wish, state: NodeState) -> NodeState:
    """All steps of the wish, one after the other."""
    for step in wish.steps:
        state = apply(step, state)
    return state


def lines(wish: Wish) -> list[str]:
    """What is done, without the name of the GPU."""
    return [str(step).partition(" on GPU")[0] for step in wish.steps]
