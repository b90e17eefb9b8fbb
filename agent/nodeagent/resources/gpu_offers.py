"""What the node offers of its GPUs: resources with their devices and shares, and what a container gets for them; pure.

Sources: NVIDIA/k8s-device-plugin internal/plugin/server.go (answers of Allocate), internal/rm/allocate.go,
api/config/v1/replicas.go (sharing), cmd/mps-control-daemon/mps/root.go (paths of MPS).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError
from nodeagent.host.paths import DEV_NULL, DEV_SHM, MPS_DIRECTORY, NVIDIA_DEVICE_MOUNTS
from nodeagent.resources.cdi_specs import CONTROL
from nodeagent.resources.gpu_beside import CDI_LISTS, CHANNELS_VARIABLE, Beside, beside_of
from nodeagent.resources.gpu_preference import Affinity, affinity_of, best_set
from nodeagent.resources.gpu_units import Around, Unit, units_of, with_unreadable
from nodeagent.spec.containers import Component
from nodeagent.spec.kubernetes import DeviceId, DeviceList, PluginGpus, SharedAllocation
from nodeagent.spec.labels import SharingStrategy
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.node import NodeState
from nodeagent.state.offers import Grant, Mount, NodeAccess, Offer, OfferedDevice

DOMAIN, SHARED = "nvidia.com", ".shared"
SHARE = "::"
_ANNOTATION = "cdi.k8s.io/nvidia-device-plugin_"
_NAMESPACE = uuid.UUID("0f5be0b4-6a0c-4d44-9d1c-5f3f6f1f7a10")  # any fixed one: the same request, the same annotation
# Clients that one MPS control daemon takes, by compute capability (k8s-device-plugin cmd/mps-control-daemon).
_MPS_CLIENTS, _MPS_CLIENTS_BEFORE_TURING = 48, 16


@dataclass(frozen=True)
class Handing:
    """How a container of this resource is told its devices. `nodes` are those that every container gets, `beside` is
    what it gets with the GPU. `mps_directory` is "" without MPS.
    """

    resource: str
    device_id: DeviceId
    lists: tuple[DeviceList, ...] = ()
    nodes: tuple[str, ...] = ()
    one_at_most: bool = False
    mps_directory: str = ""
    beside: Beside = field(default_factory=Beside)


@dataclass(frozen=True)
class GpuAllocator:
    """Answers for one resource. `shares` is how many there are of each unit: 1 for those that are not shared."""

    units: tuple[Unit, ...]
    shares: int
    handing: Handing
    near: Affinity
    packed: bool = False

    def grant(self, ids: tuple[str, ...]) -> Grant:
        """HostError where more than one share is asked for and that is not allowed."""
        if self.handing.one_at_most and len(ids) > 1:
            reason = f"{len(ids)} shares for one container; each is a part of a GPU, and one is allowed"
            raise HostError("allocate", self.handing.resource, reason)
        wanted = {number.partition(SHARE)[0] for number in ids}
        return grant_of(tuple(unit for unit in self.units if unit.uuid in wanted), self.handing)

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        if self.shares == 1 and not any(unit.is_mig for unit in self.units):
            return best_set(available, must, size, self.near)
        return self._spread(available, must, size)

    def _spread(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        """Share by share from the device that has given the fewest, or the most; then by GPU."""
        parent = {unit.uuid: unit.gpu for unit in self.units}
        free = Counter(number.partition(SHARE)[0] for number in available)
        given = Counter({name: self.shares - free[name] for name in parent})
        given.update(number.partition(SHARE)[0] for number in must if number in available)
        chosen = list(must)
        rest = [number for number in available if number not in must]
        sign = -1 if self.packed else 1
        while len(chosen) < size and rest:
            by_gpu: Counter[str] = Counter()
            for name, count in given.items():
                by_gpu[parent.get(name, name)] += count
            names = {number: number.partition(SHARE)[0] for number in rest}
            best = min(
                rest, key=lambda n: (sign * given[names[n]], sign * by_gpu[parent.get(names[n], "")])
            )  # fmt: skip
            chosen.append(best)
            rest.remove(best)
            given[names[best]] += 1
        return tuple(chosen)


def grant_of(units: tuple[Unit, ...], handing: Handing) -> Grant:
    """What a container gets for these units."""
    names = [unit.uuid if handing.device_id is DeviceId.UUID else unit.index for unit in units]
    cdi = (*(unit.cdi for unit in units), *handing.beside.cdi)
    envs = dict(handing.beside.envs)
    mounts: tuple[Mount, ...] = ()
    annotations: dict[str, str] = {}
    if DeviceList.ENVVAR in handing.lists:
        envs["NVIDIA_VISIBLE_DEVICES"] = ",".join(names)
        if handing.beside.channels:
            envs[CHANNELS_VARIABLE] = ",".join(map(str, handing.beside.channels))
    if DeviceList.VOLUME_MOUNTS in handing.lists:
        envs["NVIDIA_VISIBLE_DEVICES"] = NVIDIA_DEVICE_MOUNTS
        names += [f"imex/{number}" for number in handing.beside.channels]
        mounts = tuple(Mount(f"{NVIDIA_DEVICE_MOUNTS}/{name}", DEV_NULL, read_only=False) for name in names)
    if DeviceList.CDI_ANNOTATIONS in handing.lists:
        annotations[_ANNOTATION + str(uuid.uuid5(_NAMESPACE, ",".join((handing.resource, *cdi))))] = ",".join(cdi)
    if handing.mps_directory:
        envs["CUDA_MPS_PIPE_DIRECTORY"] = pipe_directory(handing.mps_directory, handing.resource)
        mounts += _mps_mounts(handing)
    every = (*handing.nodes, *(node for unit in units for node in unit.nodes), *handing.beside.nodes)
    nodes = dict.fromkeys(every) if handing.nodes else {}
    return Grant(
        envs=envs,
        mounts=mounts,
        nodes=tuple(NodeAccess(node, node) for node in nodes),
        annotations=annotations,
        cdi_devices=cdi if DeviceList.CDI_CRI in handing.lists else (),
    )


def pipe_directory(root: str, resource: str) -> str:
    """Where the clients of a resource reach its MPS control daemon."""
    return f"{root}/{resource}/pipe"


def _mps_mounts(handing: Handing) -> tuple[Mount, ...]:
    pipe = pipe_directory(handing.mps_directory, handing.resource)
    return (
        Mount(pipe, pipe, read_only=False),
        Mount(DEV_SHM, DEV_SHM, read_only=False),  # a daemon of the host has its shared memory there
    )


@dataclass(frozen=True)
class GpuOffers:
    """`units` are those that `offers` are made of; remarks say what is not offered, and why."""

    offers: tuple[Offer, ...] = ()
    units: tuple[Unit, ...] = ()
    remarks: tuple[str, ...] = ()


def gpu_offers(spec: NodeSpec, state: NodeState, around: Around, before: Iterable[Unit] = ()) -> GpuOffers:
    """What section `kubernetes.gpus` comes to on this node; `before` are the units offered last."""
    if spec.kubernetes is None or spec.kubernetes.gpus.offer is Component.OFF:
        return GpuOffers()
    section = spec.kubernetes.gpus
    units, remarks = units_of(section.mig_strategy, state, around)
    units = with_unreadable(before, units, state)
    lists = section.device_list or ((DeviceList.CDI_CRI,) if _has_cdi(spec) else (DeviceList.ENVVAR,))
    near = affinity_of(state, around.nvlinks)
    beside = beside_of(section, lists, state)
    remarks += beside.remarks if units else ()
    offers = []
    for short in dict.fromkeys(unit.resource for unit in units):
        mine = tuple(unit for unit in units if unit.resource == short)
        shares, remark = _shares(section, short, mine)
        remarks += remark
        handing = replace(_handing(section, short, shares, state), lists=lists, beside=beside)
        mps = [_mps_problem(section, unit, shares, state, around) for unit in mine]
        mine = tuple(_with_obstacles(unit, handing, problem) for unit, problem in zip(mine, mps, strict=True))
        offers.append(_offer(section, mine, shares, handing, near))
    return GpuOffers(tuple(offers), units, remarks)


def _has_cdi(spec: NodeSpec) -> bool:
    return spec.cdi is not None and spec.cdi.gpus is not Component.OFF


def _shares(section: PluginGpus, short: str, units: tuple[Unit, ...]) -> tuple[int, tuple[str, ...]]:
    sharing = section.sharing
    wanted = sharing.replicas.get(short, 1) if sharing.strategy is not SharingStrategy.NONE else 1
    if wanted > 1 and sharing.strategy is SharingStrategy.MPS and any(unit.is_mig for unit in units):
        return 1, (f"{short} is offered without shares: mps does not go with MIG",)
    return wanted, ()


def _with_obstacles(unit: Unit, handing: Handing, mps: str) -> Unit:
    """A unit that is well may still not be given: a runtime refuses a container whose CDI device nobody defines."""
    if unit.problem:
        return unit
    if not unit.cdi and any(one in handing.lists for one in CDI_LISTS):
        return replace(unit, problem="no CDI specification names it")
    return replace(unit, problem=mps or handing.beside.problem)


def _mps_problem(section: PluginGpus, unit: Unit, shares: int, state: NodeState, around: Around) -> str:
    if shares == 1 or section.sharing.strategy is not SharingStrategy.MPS:
        return ""
    gpu = state.gpus.get(unit.gpu)
    old = gpu is not None and (0, 0) < gpu.compute_capability < (7, 5)
    most = _MPS_CLIENTS_BEFORE_TURING if old else _MPS_CLIENTS
    if shares > most:
        return f"{shares} shares are wanted, and an MPS control daemon takes {most} clients on this GPU"
    return "" if unit.uuid in around.mps else "its MPS control daemon is not up"


def name_of(section: PluginGpus, short: str, shares: int) -> str:
    """The name of a resource."""
    return f"{DOMAIN}/{short}{SHARED if shares > 1 and section.sharing.rename else ''}"


def _handing(section: PluginGpus, short: str, shares: int, state: NodeState) -> Handing:
    is_mps = shares > 1 and section.sharing.strategy is SharingStrategy.MPS
    limited = section.sharing.fail_above_one
    control = tuple(path for path in CONTROL if path in state.device_nodes)
    return Handing(
        resource=name_of(section, short, shares),
        device_id=section.device_id,
        nodes=control if section.pass_device_specs else (),
        one_at_most=shares > 1 and (is_mps if limited is None else limited),
        mps_directory=(section.mps_directory or MPS_DIRECTORY) if is_mps else "",
    )


def _offer(section: PluginGpus, units: tuple[Unit, ...], shares: int, handing: Handing, near: Affinity) -> Offer:
    packed = section.shared_allocation is SharedAllocation.PACKED
    allocator = GpuAllocator(units, shares, handing, near, packed)
    return Offer(handing.resource, tuple(_devices(units, shares)), allocator)


def _devices(units: Iterable[Unit], shares: int) -> list[OfferedDevice]:
    """Every share of a unit is as well as the unit is."""
    return [
        OfferedDevice(number, not unit.problem, unit.numa_nodes, unit.problem)
        for unit in units
        for number in ([unit.uuid] if shares == 1 else [f"{unit.uuid}{SHARE}{n}" for n in range(shares)])
    ]


@dataclass(frozen=True)
class MpsNeed:
    """The MPS control daemon of a resource: its directory, its GPUs as (UUID, memory in MiB), shares of each."""

    directory: str
    gpus: tuple[tuple[str, int], ...]
    shares: int


def wanted_mps(spec: NodeSpec, state: NodeState, units: Iterable[Unit]) -> Mapping[str, MpsNeed]:
    """What sharing by MPS needs, by resource."""
    section = spec.kubernetes.gpus if spec.kubernetes else PluginGpus()
    shares = section.sharing.replicas.get("gpu", 1)
    whole = tuple(unit.uuid for unit in units if not unit.is_mig and unit.uuid in state.gpus)
    if section.sharing.strategy is not SharingStrategy.MPS or shares == 1 or not whole:
        return {}
    resource = name_of(section, "gpu", shares)
    gpus = tuple((name, state.gpus[name].memory_total_bytes >> 20) for name in whole)
    return {resource: MpsNeed(f"{section.mps_directory or MPS_DIRECTORY}/{resource}", gpus, shares)}
