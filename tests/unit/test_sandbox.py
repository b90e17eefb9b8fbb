"""Plans of section `sandbox`: what goes along, what stands in the way, what the labels of an operator change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig_world import board
from nodeagent.health.look import Learned, Look
from nodeagent.health.observation import Identities, Observation
from nodeagent.health.presence_checks import check_presence
from nodeagent.health.windows import Windows
from nodeagent.plan.journal import Entry, Phase, decode, encode
from nodeagent.resources.base import Disturbs, Step
from nodeagent.resources.operator_labels import WORKLOAD, follow, relevant
from nodeagent.resources.sandbox import VFIO_DRIVERS, effective, plan
from nodeagent.resources.sandbox_steps import GiveFunction, ReleaseFunction
from nodeagent.spec.health import Health, HealthExpect
from nodeagent.spec.sandbox import Sandbox, Workload
from nodeagent.spec.schema import MigEntry, Modules, NamedModule, NodeSpec, NvidiaModules
from nodeagent.state.gpu import GpuSample
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.things import pci

GPU, AUDIO, NIC, DISK = "0000:21:00.0", "0000:21:00.1", "0000:61:00.0", "0000:22:00.0"
FUNCTION = PciFunction(GPU, "10de", "20f1", "030200", "nvidia", iommu_group="7")
SOUND = PciFunction(AUDIO, "10de", "1aef", "040300", "snd_hda_intel", iommu_group="7")
CARD = PciFunction(NIC, "15b3", "101d", "020000", "mlx5_core", iommu_group="9")
NVME = PciFunction(DISK, "144d", "a808", "010802", "nvme", iommu_group="7")
PORT = PciFunction("0000:20:01.0", "1022", "1483", "060400", "pcieport", iommu_group="7")


def _state(*functions: PciFunction, loaded: tuple[str, ...] = ("vfio_pci", "nvidia"), known: bool = True) -> NodeState:
    """Strangers are only seen as members of a group."""
    groups: dict[str, tuple[PciFunction, ...]] = defaultdict(tuple)
    for one in functions:
        groups[one.iommu_group] += (one,)
    found = board(pci_address=GPU)
    return NodeState(
        modules={name: KernelModule(name, Liveness.LIVE) for name in loaded},
        pci={one.address: one for one in functions if one.vendor in ("10de", "15b3")},
        iommu_groups={group: members for group, members in groups.items() if group},
        gpus={found.uuid: found} if known else {},
    )


def _spec(*devices: str, workload: Workload = Workload.VM_PASSTHROUGH) -> NodeSpec:
    return NodeSpec(version=1, sandbox=Sandbox(workload, devices or "gpus"))


def _problem(spec: NodeSpec, state: NodeState) -> str:
    wish = plan(spec, state)
    assert wish.steps == ()
    return wish.obstacles[0].problem


def test_a_group_goes_as_a_whole_with_what_belongs_to_the_card() -> None:
    steps = plan(_spec(), _state(FUNCTION, SOUND, PORT)).steps
    assert [(type(step).__name__, step.subject.name) for step in steps] == [
        ("ReleaseFunction", AUDIO),
        ("ReleaseFunction", GPU),
        ("GiveFunction", AUDIO),
        ("GiveFunction", GPU),
    ]
    assert len({step.unit for step in steps}) == 1
    assert str(steps[1].claims[1]).startswith("gpu GPU-")
    assert {step.disturbs for step in steps} == {Disturbs.GPU, Disturbs.NOTHING}


def test_what_else_is_in_the_group_stands_in_the_way_until_it_is_named_or_free() -> None:
    state = _state(FUNCTION, NVME)
    assert _problem(_spec(), state) == f"IOMMU group 7 also has {DISK}, which nvme drives"
    assert len(plan(_spec(), _state(FUNCTION, replace(NVME, driver=""))).steps) == 1
    other_port = replace(CARD, address="0000:61:00.1", iommu_group="9")
    assert "0000:61:00.1" in _problem(_spec(NIC), _state(CARD, other_port))
    assert len(plan(_spec("id:15b3:101d"), _state(CARD, other_port)).steps) == 4


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (_state(FUNCTION, loaded=("nvidia",)), "module vfio_pci is not loaded"),
        (_state(replace(FUNCTION, iommu_group="")), "it is in no IOMMU group"),
        (_state(FUNCTION, known=False), "NVML does not say which GPU it is, so nobody knows who uses it"),
        (_state(replace(FUNCTION, driver="nouveau")), "nouveau drives it, and who uses it cannot be seen"),
        (_state(replace(FUNCTION, vf_addresses=("0000:21:00.4",))), "it has 1 virtual functions"),
        (_state(CARD), "there is no GPU"),
    ],
    ids=["module", "iommu", "nvml", "nouveau", "vfs", "none"],
)
def test_why_a_gpu_cannot_be_given_away(state: NodeState, problem: str) -> None:
    assert _problem(_spec(), state) == problem


def test_back_is_what_vfio_has_or_was_meant_to_have_and_nothing_else() -> None:
    half = replace(FUNCTION, driver="", driver_override="vfio-pci")  # after a crash between release and binding
    state = _state(half, replace(SOUND, driver="vfio-pci"), replace(CARD, driver="vfio-pci"))
    steps = plan(_spec(workload=Workload.CONTAINER), state).steps
    assert [(step.subject.name, str(step)) for step in steps] == [
        (GPU, f"give {GPU} back to its own driver"),
        (AUDIO, f"give {AUDIO} back to its own driver"),
    ]
    assert plan(_spec(workload=Workload.VM_VGPU), state).steps == steps
    assert plan(_spec(workload=Workload.CONTAINER), _state(FUNCTION, SOUND)).steps == ()
    assert plan(NodeSpec(version=1), state).steps == ()


def test_with_all_gpus_away_nothing_wants_their_driver() -> None:
    modules = Modules(nvidia=NvidiaModules(), gdrcopy=True, named={"br_netfilter": NamedModule()})
    spec = replace(_spec(), modules=modules, mig=(MigEntry(layout="all-balanced"),))
    found = effective(spec)
    assert found.modules is not None
    assert (found.modules.nvidia, found.modules.gdrcopy, found.mig) == (None, False, ())
    assert set(found.modules.named) == {"br_netfilter", "vfio_pci"}
    some = effective(replace(spec, sandbox=Sandbox(Workload.VM_PASSTHROUGH, (GPU,))))
    assert some.modules is not None
    assert some.modules.nvidia is not None
    assert some.mig == spec.mig
    back = replace(spec, sandbox=Sandbox(Workload.CONTAINER))
    assert effective(back) is back


@pytest.mark.parametrize("value", ["container", "vm-passthrough", "vm-vgpu", "vm-whatever", ""])
def test_the_operators_label_says_what_the_gpus_are_for(value: str) -> None:
    spec = _spec(workload=Workload.VM_PASSTHROUGH)
    labels = {WORKLOAD: value}
    assert relevant(labels) == labels
    followed = follow(spec, labels, (), None).spec.sandbox
    assert followed is not None
    assert followed.workload == (value if value in set(Workload) else "vm-passthrough")
    assert follow(NodeSpec(version=1), labels, (), None).spec.sandbox is None
    theirs = {**labels, "nvidia.com/gpu.deploy.vfio-manager": "true"}
    assert follow(spec, theirs, (), None).spec.sandbox is None


@pytest.mark.parametrize(
    "step",
    [
        GiveFunction(
            subject=pci(GPU), unit="sandbox/x", driver="vfio-pci", before="nvidia", kind=Disturbs.GPU, uuid="G"
        ),
        ReleaseFunction(subject=pci(NIC), unit="sandbox/x", driver="vfio-pci", before="igb", kind=Disturbs.NIC),
    ],
)
def test_steps_survive_the_journal(step: Step) -> None:
    (entry,) = decode(encode((Entry(Phase.ACT, step),), "boot"))
    assert entry.step == step
    undo = step.undo()
    assert isinstance(undo, GiveFunction)
    assert undo.driver == ""


_DRIVERS = st.sampled_from(["", "nvidia", "mlx5_core", "nvme", "vfio-pci", "snd_hda_intel"])
_KINDS = st.sampled_from([("10de", "030200"), ("10de", "040300"), ("15b3", "020000"), ("144d", "010802")])
_FUNCTIONS = st.lists(st.tuples(st.integers(1, 3), _KINDS, _DRIVERS, st.integers(1, 3)), max_size=8)


@given(_FUNCTIONS)
def test_a_group_is_never_shared_between_a_machine_and_a_driver(
    rows: list[tuple[int, tuple[str, str], str, int]],
) -> None:
    """Whatever the machine looks like: carried out, no group has a function with VFIO beside one with a driver."""
    functions = [
        PciFunction(f"0000:{bus:02x}:00.{number}", *(kind[0], "1234", kind[1]), driver=driver, iommu_group=str(group))
        for number, (bus, kind, driver, group) in enumerate(rows)
        if driver != "vfio-pci"
    ]
    state = _state(*functions)
    after = {one.address: one.driver for one in functions}
    for step in plan(_spec("gpus"), replace(state, gpus={})).steps:
        assert isinstance(step, GiveFunction | ReleaseFunction)
        after[step.subject.name] = step.driver if isinstance(step, GiveFunction) else ""
        others = [one for one in functions if one.iommu_group == _group(functions, step.subject.name)]
        if isinstance(step, GiveFunction):
            assert all(after[one.address] in ("", *VFIO_DRIVERS) for one in others)


def _group(functions: list[PciFunction], address: str) -> str:
    return next(one.iommu_group for one in functions if one.address == address)


@pytest.mark.parametrize("expected", [None, 2])
def test_a_gpu_that_a_virtual_machine_has_is_not_missed(expected: int | None) -> None:
    own, given = board(0), board(1)
    functions = (replace(FUNCTION, address=given.pci_address), replace(FUNCTION, address=own.pci_address))
    spec = Health(expect=HealthExpect(gpus=expected))

    def verdicts(driver: str) -> dict[str, str]:
        pci = {one.address: one for one in (replace(functions[0], driver=driver), functions[1])}
        seen = Observation(
            1.0,
            NodeState(modules={"nvidia": KernelModule("nvidia", Liveness.LIVE)}, pci=pci),
            {own.uuid: GpuSample(own.uuid)},
            gpu_pci=(own.pci_address, given.pci_address),
        )
        who = Identities({own.uuid: own.pci_address, given.uuid: given.pci_address})
        look = Look(seen, spec, Windows(600.0), who, Learned(gpus=frozenset(pci)))
        return {f"{one.subject.name} {one.check}": one.verdict.value for one in check_presence(look)}

    assert verdicts("vfio-pci")[" gpu-count"] == "ok"
    assert f"{given.uuid} gpu-answers" not in verdicts("vfio-pci")
    assert verdicts("")[" gpu-count"] == "failed"
