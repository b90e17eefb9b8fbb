"""Section `sandbox`: GPUs and NICs given to VFIO for virtual machines, as whole IOMMU groups, and back.

Sources: Documentation/driver-api/vfio.rst (groups), NVIDIA/k8s-driver-manager cmd/vfio-manage (what goes
along).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from nodeagent.resources.base import Disturbs, Obstacle, Step, Wish
from nodeagent.resources.ownership import without_driver
from nodeagent.resources.sandbox_steps import VFIO_DRIVERS, GiveFunction, ReleaseFunction
from nodeagent.spec.sandbox import GPUS, Sandbox, Workload
from nodeagent.spec.schema import Modules, NamedModule, NodeSpec
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.things import pci

WANTED = "the node file wants it so"
NVIDIA, NOUVEAU = "nvidia", "nouveau"
DISPLAY, BRIDGE = "03", "0604"
COMPANIONS = ("0403", "0c03", "0c80")  # sound, USB controller, USB-C controller
IDLE_DRIVERS = frozenset({"", "pci-stub", *VFIO_DRIVERS})  # what may share a group with a virtual machine's function


def effective(spec: NodeSpec) -> NodeSpec:
    """The node file as it is meant while functions belong to virtual machines: VFIO's module is wanted, and with all
    GPUs given away what needs NVIDIA's driver is not.
    """
    section = spec.sandbox
    if section is None or section.workload is not Workload.VM_PASSTHROUGH:
        return spec
    modules = spec.modules or Modules()
    named = {section.driver.module: NamedModule(), **modules.named}
    if section.devices == GPUS:
        modules = without_driver(modules)
        spec = replace(spec, mig=())
    return replace(spec, modules=replace(modules, named=named))


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps by IOMMU group: a group goes as a whole, or not at all."""
    section = spec.sandbox
    if section is None:
        return Wish()
    chosen = chosen_functions(section, state)
    wish = _give(section, chosen, state) if section.workload is Workload.VM_PASSTHROUGH else _take_back(chosen, state)
    return replace(wish, obstacles=wish.obstacles + tuple(_unmatched(section, state)))


def chosen_functions(section: Sandbox, state: NodeState) -> tuple[PciFunction, ...]:
    """The functions that are named, by address."""
    found = {one.address for text in _selectors(section) for one in state.pci.values() if _matches(text, one)}
    return tuple(state.pci[address] for address in sorted(found))


def _selectors(section: Sandbox) -> tuple[str, ...]:
    return (section.devices,) if isinstance(section.devices, str) else section.devices


def _matches(text: str, found: PciFunction) -> bool:
    if text == GPUS:
        return is_gpu(found)
    return text in (found.address, f"id:{found.vendor}:{found.device}")


def is_gpu(found: PciFunction) -> bool:
    """Whether it is a display controller of NVIDIA's, and no virtual function of one."""
    return found.vendor == "10de" and found.class_code.startswith(DISPLAY) and not found.is_vf


def _unmatched(section: Sandbox, state: NodeState) -> Iterator[Obstacle]:
    for text in _selectors(section):
        if not any(_matches(text, one) for one in state.pci.values()):
            there = ", ".join(f"{one.address} ({one.vendor}:{one.device})" for one in state.pci.values()) or "none"
            problem = "no function matches" if text != GPUS else "there is no GPU"
            yield Obstacle(f"sandbox/{text}", pci(text), problem, f"functions of GPUs and NICs are: {there}")


def _give(section: Sandbox, chosen: Iterable[PciFunction], state: NodeState) -> Wish:
    steps: list[Step] = []
    obstacles: list[Obstacle] = []
    decided: list[str] = []
    for group, wanted in _by_group(chosen).items():
        going = tuple(_going(group, wanted, state))
        decided += [one.address for one in going]
        left = [one for one in going if one.driver != section.driver]
        problem = _refusal(section, group, wanted, state) if left else None
        if problem is not None:
            obstacles.append(problem)
        else:
            steps += _group_steps(section, _unit(wanted[0]), left, state)
    return Wish(tuple(steps), tuple(obstacles), decided=tuple(map(pci, decided)))


def _by_group(chosen: Iterable[PciFunction]) -> Mapping[str, tuple[PciFunction, ...]]:
    """What is in no group stands alone, for the refusal to say so."""
    groups: dict[str, tuple[PciFunction, ...]] = {}
    for one in chosen:
        name = one.iommu_group or one.address
        groups[name] = (*groups.get(name, ()), one)
    return groups


def _going(group: str, wanted: tuple[PciFunction, ...], state: NodeState) -> Iterator[PciFunction]:
    """The wanted functions of a group, and what goes along with them; the companions first, to be free in time."""
    yield from (one for one in state.iommu_groups.get(group, ()) if one not in wanted and _goes_along(one, wanted))
    yield from wanted


def _goes_along(found: PciFunction, wanted: Iterable[PciFunction]) -> bool:
    """Sound and USB of a graphics card: functions of the same slot and vendor."""
    same = any(one.address[:-1] == found.address[:-1] and one.vendor == found.vendor for one in wanted)
    return same and found.class_code.startswith(COMPANIONS)


def _group_steps(section: Sandbox, unit: str, left: list[PciFunction], state: NodeState) -> Iterator[Step]:
    """One function is handed over as it is; of several, all are freed before the first is given away."""
    driver, kind = section.driver.value, _kind(left)
    uuids = {one.pci_address: one.uuid for one in state.gpus.values()}
    freed = [one for one in left if one.driver] if len(left) > 1 else []
    for one in freed:
        uuid = uuids.get(one.address, "")
        yield ReleaseFunction(
            subject=pci(one.address), unit=unit, reason=WANTED, driver=driver, before=one.driver, kind=kind, uuid=uuid
        )
    for one in left:
        before = "" if one in freed else one.driver
        uuid = uuids.get(one.address, "") if before else ""
        yield GiveFunction(
            subject=pci(one.address), unit=unit, reason=WANTED, driver=driver, before=before, kind=kind, uuid=uuid
        )


def _kind(functions: Iterable[PciFunction]) -> Disturbs:
    return Disturbs.GPU if any(one.vendor == "10de" for one in functions) else Disturbs.NIC


def _refusal(section: Sandbox, group: str, wanted: tuple[PciFunction, ...], state: NodeState) -> Obstacle | None:
    """Why a group cannot be given away now; the first function stands for all."""
    first = wanted[0]
    if not state.is_loaded(section.driver.module):
        return _obstacle(first, f"module {section.driver.module} is not loaded", "it is loaded first", waits=True)
    if not first.iommu_group:
        advice = "boot with intel_iommu=on (Intel) or with the IOMMU enabled in the firmware set-up"
        return _obstacle(first, "it is in no IOMMU group", advice)
    stranger = next(_strangers(group, wanted, state), None)
    if stranger is not None:
        problem = f"IOMMU group {group} also has {stranger.address}, which {stranger.driver} drives"
        advice = f"name {stranger.address} in sandbox.devices too, or have ACS separate them (firmware set-up, slot)"
        return _obstacle(first, problem, advice)
    refusals = (_function_refusal(one, state) for one in wanted)
    return next((refusal for refusal in refusals if refusal is not None), None)


def _strangers(group: str, wanted: tuple[PciFunction, ...], state: NodeState) -> Iterator[PciFunction]:
    for one in state.iommu_groups.get(group, ()):
        is_free = one.driver in IDLE_DRIVERS or one.class_code.startswith(BRIDGE)
        if one not in wanted and not is_free and not _goes_along(one, wanted):
            yield one


def _function_refusal(one: PciFunction, state: NodeState) -> Obstacle | None:
    if one.vf_addresses:
        count = len(one.vf_addresses)
        return _obstacle(one, f"it has {count} virtual functions", "remove them first (sriov: vfs: 0)")
    if one.driver == NOUVEAU:
        return _obstacle(one, "nouveau drives it, and who uses it cannot be seen", "put nouveau into modules.absent")
    if one.driver == NVIDIA and one.address not in {gpu.pci_address for gpu in state.gpus.values()}:
        reason = "NVML does not say which GPU it is, so nobody knows who uses it"
        return _obstacle(one, reason, "the driver's removal would wait for its users for ever", waits=True)
    return None


def _take_back(chosen: tuple[PciFunction, ...], state: NodeState) -> Wish:
    """Back to their own drivers, with what went along; what VFIO does not have is left alone."""
    along = (one for one in state.pci.values() if one not in chosen and _goes_along(one, chosen))
    given = [one for one in (*chosen, *along) if not VFIO_DRIVERS.isdisjoint((one.driver, one.driver_override))]
    steps = tuple(
        GiveFunction(
            subject=pci(one.address), unit=_unit(one), reason=WANTED, driver="", before=one.driver, kind=_kind((one,))
        )
        for one in given
    )
    return Wish(steps, decided=tuple(pci(one.address) for one in given))


def _unit(found: PciFunction) -> str:
    return f"sandbox/{found.address[:-2]}"


def _obstacle(found: PciFunction, problem: str, advice: str, waits: bool = False) -> Obstacle:
    return Obstacle(_unit(found), pci(found.address), problem, advice, waits)
