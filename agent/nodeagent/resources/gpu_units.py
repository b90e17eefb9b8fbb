"""GPUs and MIG devices as pods get them: one unit each, with its resource, its names, its nodes and its problem; pure.

Sources: NVIDIA/k8s-device-plugin internal/rm/device_map.go and internal/mig/mig.go (which devices under which
resource), internal/rm/health.go (which errors count, where ours is stricter: see `problem_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.host.paths import DEV
from nodeagent.resources.cdi_specs import GPU_KIND, capability_path
from nodeagent.resources.labels_gpu import MigDevice, mig_devices
from nodeagent.spec.labels import MigStrategy
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.health import NODE, Finding, Health, Recovery, SubjectKind, Verdict
from nodeagent.state.node import NodeState
from nodeagent.state.repair import Quarantine
from nodeagent.state.topology import NvLinks

WHOLE = "gpu"
WHOLE_NODE = ""
# Failures after which the GPU serves the next program as well as before, or that are no failure of the device.
_HARMLESS = (Recovery.NONE, Recovery.RESTART_JOB)
_NOT_OF_THE_DEVICE = ("drift-", "persistence")
_DRIVER = "driver"


@dataclass(frozen=True)
class Unit:
    """One device. `resource` is its short name such as gpu or mig-1g.5gb, `index` 0 or 0:1, `gpu` its GPU's UUID.

    `cdi` is its qualified CDI name, "" where no specification names it. `problem` says why no pod may get it.
    """

    resource: str
    uuid: str
    index: str
    gpu: str
    pci_address: str = ""
    numa_nodes: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    cdi: str = ""
    problem: str = ""

    @property
    def is_mig(self) -> bool:
        return self.uuid != self.gpu


@dataclass(frozen=True)
class Around:
    """What counts besides the observed state.

    `withdrawn` are UUIDs of GPUs that a step of ours is about to change, `held` why others may not be used, by UUID or
    PCI address of a GPU, UUID of a MIG device, or WHOLE_NODE. `mps` are the UUIDs whose MPS control daemon is up.
    """

    health: Health = field(default_factory=Health)
    nvlinks: Mapping[str, NvLinks] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()
    held: Mapping[str, str] = field(default_factory=dict)
    mps: frozenset[str] = frozenset()


def units_of(strategy: MigStrategy, state: NodeState, around: Around) -> tuple[tuple[Unit, ...], tuple[str, ...]]:
    """Every unit in the order of NVML, and remarks on what is not offered."""
    gpus = sorted(state.gpus.values(), key=lambda one: one.index)
    whole, parts, remarks = _sorted_out(strategy, gpus)
    names = _cdi_names(state)
    found = [_whole(gpu, state, names) for gpu in whole]
    found += [_part(part, strategy, state, names) for part in parts]
    return tuple(replace(unit, problem=problem_of(unit, around)) for unit in found), remarks


def _sorted_out(
    strategy: MigStrategy, gpus: Sequence[Gpu]
) -> tuple[Sequence[Gpu], tuple[MigDevice, ...], tuple[str, ...]]:
    """GPUs that are offered whole, MIG devices that are offered, remarks."""
    enabled = [gpu for gpu in gpus if gpu.mig_mode is MigMode.ENABLED]
    if strategy is MigStrategy.NONE or not enabled:
        return gpus, (), ()
    if strategy is MigStrategy.MIXED:
        return [gpu for gpu in gpus if gpu not in enabled], *_full(mig_devices(enabled))
    return (), *_single(gpus, enabled)


def _full(devices: Iterable[MigDevice]) -> tuple[tuple[MigDevice, ...], tuple[str, ...]]:
    """Those that fill their GPU instance: the others have no resource of their own at NVIDIA's plugin."""
    devices = tuple(devices)
    full = tuple(one for one in devices if one.compute.profile == one.instance.profile)
    left = (f"{one.compute.uuid} ({one.compute.profile}) is not offered: it has a part of its GPU instance only"
            for one in devices if one not in full)  # fmt: skip
    return full, tuple(left)


def _single(gpus: Iterable[Gpu], enabled: Iterable[Gpu]) -> tuple[tuple[MigDevice, ...], tuple[str, ...]]:
    """MIG devices of one profile. A GPU that does not fit in is left out, and does not take the others with it."""
    enabled = tuple(enabled)
    full, remarks = _full(mig_devices(enabled))
    profiles = sorted({one.profile for one in full})
    with_devices = {one.gpu.uuid for one in full}
    left = [f"GPU {gpu.index} is not offered: mig_strategy is single, and it {_why(gpu)}"
            for gpu in gpus if gpu.uuid not in with_devices]  # fmt: skip
    if len(profiles) > 1:
        several = (
            f"nothing is offered: mig_strategy is single, and there are {', '.join(profiles)}; expected one, or mixed"
        )
        return (), (*remarks, *left, several)
    return full, (*remarks, *left)


def _why(gpu: Gpu) -> str:
    return "has no MIG device" if gpu.mig_mode is MigMode.ENABLED else "is not divided"


def _cdi_names(state: NodeState) -> frozenset[str]:
    files = (file for file in state.containers.cdi_files if file.kind == GPU_KIND and not file.problem)
    return frozenset(name for file in files for name in file.devices)


def _cdi(names: frozenset[str], *candidates: str) -> str:
    return next((f"{GPU_KIND}={name}" for name in candidates if name in names), "")


def _numa(gpu: Gpu, state: NodeState) -> tuple[int, ...]:
    function = state.pci.get(gpu.pci_address)
    return (function.numa_node,) if function is not None and function.numa_node >= 0 else ()


def _whole(gpu: Gpu, state: NodeState, names: frozenset[str]) -> Unit:
    index = f"{gpu.index}"
    return Unit(
        resource=WHOLE, uuid=gpu.uuid, index=index, gpu=gpu.uuid, pci_address=gpu.pci_address,
        numa_nodes=_numa(gpu, state), nodes=(f"{DEV}/nvidia{gpu.minor}",),
        cdi=_cdi(names, gpu.uuid, index, f"gpu{index}"),
    )  # fmt: skip


def _part(part: MigDevice, strategy: MigStrategy, state: NodeState, names: frozenset[str]) -> Unit:
    index = f"{part.gpu.index}:{part.compute.index}"
    capability = f"gpu{part.gpu.minor}/gi{part.instance.gi_id}"
    both = (capability_path(state, capability), capability_path(state, f"{capability}/ci{part.compute.ci_id}"))
    return Unit(
        resource=WHOLE if strategy is MigStrategy.SINGLE else f"mig-{part.profile}",
        uuid=part.compute.uuid, index=index, gpu=part.gpu.uuid, pci_address=part.gpu.pci_address,
        numa_nodes=_numa(part.gpu, state), nodes=(f"{DEV}/nvidia{part.gpu.minor}", *filter(None, both)),
        cdi=_cdi(names, part.compute.uuid, index, f"mig{index}"),
    )  # fmt: skip


def problem_of(unit: Unit, around: Around) -> str:
    """Why no pod may get the unit, "" if one may.

    A finding of the GPU concerns all its MIG devices, one of a MIG device this one alone. It comes and goes with the
    finding: damping is the business of the health checks. What a new program cures (Xids of applications) is no reason.
    """
    if unit.gpu in around.withdrawn:
        return "a step of the agent is about to change the GPU"
    held = next(
        (around.held[key] for key in (unit.uuid, unit.gpu, unit.pci_address, WHOLE_NODE) if key in around.held), ""
    )
    if held:
        return held
    return next(_findings(unit, around.health), "")


def _findings(unit: Unit, health: Health) -> Iterator[str]:
    for finding in health.findings:
        if finding.verdict is Verdict.FAILED and _concerns(finding, unit):
            yield f"{finding.check}: {finding.evidence or finding.cause}"


def _concerns(finding: Finding, unit: Unit) -> bool:
    if finding.subject.key == NODE.key:
        return finding.check == _DRIVER
    if finding.check.startswith(_NOT_OF_THE_DEVICE) or (finding.codes and finding.recovery in _HARMLESS):
        return False
    subject = finding.subject
    if subject.kind is SubjectKind.MIG:
        return subject.name == unit.uuid
    return subject.kind is SubjectKind.GPU and (subject.name or subject.pci_address) in (unit.gpu, unit.pci_address)


def held_by(quarantines: Iterable[Quarantine]) -> Mapping[str, str]:
    """What may not be used because repair keeps it from work, as `Around.held` has it."""
    return {one.subject.name or one.subject.pci_address: f"in quarantine: {one.reason}" for one in quarantines}


def with_unreadable(before: Iterable[Unit], now: tuple[Unit, ...], state: NodeState) -> tuple[Unit, ...]:
    """With the units from before whose GPU is there and cannot be read: they stay, unhealthy, until that is known."""
    reasons = {item.what: item.reason for item in state.unknown}
    there = {unit.uuid for unit in now} | set(state.gpus)
    lost = (unit for unit in before if unit.uuid not in there and unit.gpu not in state.gpus)
    kept = ((unit, reasons.get(f"GPU {unit.gpu}") or reasons.get("GPUs")) for unit in lost)
    return (*now, *(replace(unit, problem=f"the GPU cannot be read: {reason}") for unit, reason in kept if reason))
