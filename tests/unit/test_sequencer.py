"""The sequencer on hand-made states: what is quiesced, who blocks, what comes back, in which order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nodeagent.plan.model import Plan
from nodeagent.plan.sequencer import Terms, sequence
from nodeagent.resources.base import Disturbs, Step, Wish
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.spec.schema import Disruption, Policy
from nodeagent.state.gpu import Gpu
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import Netdev
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNumber, Process, Service
from nodeagent.state.things import Thing, gpu, module

PERSISTENCED = "nvidia-persistenced.service"


@dataclass(frozen=True, kw_only=True)
class NeedsGpu(Step):
    """Stands for any step that must have its GPU quiet, such as a change of MIG mode on an A100."""

    def __str__(self) -> str:
        return f"change {self.subject.name}"

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.GPU

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,)


@dataclass(frozen=True, kw_only=True)
class Behind(Step):
    """A step on a GPU that claims nothing, such as creating an instance."""

    def __str__(self) -> str:
        return f"then {self.subject.name}"


def loaded(name: str, *holders: str, extra: int = 0) -> KernelModule:
    return KernelModule(name, Liveness.LIVE, refcount=len(holders) + extra, holders=holders)


def busy_node() -> NodeState:
    """Two GPUs; peermem and gdrdrv loaded, persistenced and our worker have them open, PID 42 computes on GPU 1."""
    modules = (
        loaded("nvidia", "nvidia_uvm", "nvidia_peermem", "gdrdrv", extra=5),
        loaded("nvidia_uvm", extra=1),
        loaded("nvidia_peermem"),
        loaded("gdrdrv"),
        loaded("ib_core", "ib_uverbs"),
        loaded("ib_uverbs", "nvidia_peermem"),
    )
    processes = (
        Process(
            42, "python", "python train.py", opens=(DeviceNumber(195, 1), DeviceNumber(195, 255), DeviceNumber(240, 0))
        ),
        Process(
            7,
            "nvidia-persiste",
            "nvidia-persistenced",
            PERSISTENCED,
            opens=(DeviceNumber(195, 0), DeviceNumber(195, 1)),
        ),
    )
    return NodeState(
        modules={one.name: one for one in modules},
        gpus={f"GPU-{n}": Gpu(f"GPU-{n}", n, n, f"0000:0{n}:00.0", "A100", 40 << 30) for n in (0, 1)},
        majors={"nvidia": 195, "nvidia-uvm": 240},
        processes={one.pid: one for one in processes},
        services={PERSISTENCED: Service(PERSISTENCED, active=True, pids=(7,))},
        nvml_pid=99,
    )


def plan(*steps: Step, state: NodeState | None = None, **terms: object) -> Plan:
    options = {"services": (PERSISTENCED,), **terms}
    return sequence([Wish(steps)], busy_node() if state is None else state, Terms(**options))


def change(index: int) -> Step:
    return NeedsGpu(subject=gpu(f"GPU-{index}"), unit=f"mig/GPU-{index}")


def words(steps: tuple[Step, ...]) -> list[str]:
    return [str(step) for step in steps]


def test_owned_holders_go_first_and_come_back_in_reverse() -> None:
    (transition,) = plan(change(0)).transitions
    assert words(transition.quiesce) == [
        "unload module nvidia_peermem",
        "unload module gdrdrv",
        f"stop service {PERSISTENCED}",
        "let go of NVML",
    ]
    assert words(transition.restore) == [
        "use NVML again",
        f"start service {PERSISTENCED}",
        "load module gdrdrv",
        "load module nvidia_peermem",
    ]


def test_a_foreign_process_blocks_its_gpu_only_and_is_named() -> None:
    found = plan(change(0), change(1))
    assert [words(transition.acts) for transition in found.transitions] == [["change GPU-0"]]
    (blocked,) = found.blocked
    assert str(blocked.step) == "change GPU-1"
    assert [blocker.text for blocker in blocked.blockers] == ["process 42 (python train.py)"]
    assert "has GPU 1 open" in blocked.blockers[0].via


def test_memory_registered_through_peermem_blocks_every_gpu() -> None:
    state = busy_node()
    pinned = replace(state.modules["nvidia_peermem"], refcount=3)
    found = plan(change(0), state=replace(state, modules={**state.modules, "nvidia_peermem": pinned}))
    assert not found.transitions
    assert "3 memory region(s) registered through nvidia_peermem" in str(found.blocked[0].blockers[0])


def test_one_transition_for_all_gpus() -> None:
    idle = replace(busy_node(), processes={7: busy_node().processes[7]})
    found = plan(change(0), change(1), state=idle)
    assert len(found.transitions) == 1
    assert len(found.transitions[0].quiesce) == 4
    assert words(found.transitions[0].acts) == ["change GPU-0", "change GPU-1"]


def test_steps_behind_an_act_run_before_the_restore_and_are_blocked_with_it() -> None:
    behind = [Behind(subject=gpu(f"GPU-{n}"), unit=f"mig/GPU-{n}") for n in (0, 1)]
    found = plan(change(0), behind[0], change(1), behind[1])
    assert words(found.transitions[0].acts) == ["change GPU-0", "then GPU-0"]
    assert [(str(entry.step), entry.cause) for entry in found.blocked] == [
        ("change GPU-1", "held"),
        ("then GPU-1", "waits for: change GPU-1"),
    ]


def test_policy_never_holds_back_without_looking_for_holders() -> None:
    found = plan(change(0), disruption=Disruption(gpu=Policy.NEVER))
    assert not found.transitions
    assert found.blocked[0].cause == "disruption.gpu is never"


def test_reload_takes_all_down_in_order_and_restores_what_the_plan_does_not_load_itself() -> None:
    idle = replace(busy_node(), processes={7: busy_node().processes[7]})
    modules = {**idle.modules, "nvidia_uvm": loaded("nvidia_uvm")}
    idle = replace(
        idle, modules={**modules, "nvidia": loaded("nvidia", "nvidia_uvm", "nvidia_peermem", "gdrdrv", extra=3)}
    )
    unit = "modules/nvidia"
    steps = (
        UnloadModule(subject=module("nvidia"), unit=unit, serves=Disturbs.GPU),
        LoadModule(subject=module("nvidia"), unit=unit, options="a=1"),
    )
    (transition,) = plan(*steps, state=idle).transitions
    assert {step.subject.name for step in transition.quiesce} == {
        "nvidia_uvm",
        "nvidia_peermem",
        "gdrdrv",
        PERSISTENCED,
        "99",
    }
    assert words(transition.acts) == ["unload module nvidia", "load module nvidia with a=1"]
    assert [step.subject for step in transition.restore] == [step.subject for step in reversed(transition.quiesce)]


def test_unload_leaves_down_what_stands_on_it() -> None:
    idle = replace(busy_node(), processes={7: busy_node().processes[7]})
    idle = replace(idle, modules={**idle.modules, "nvidia_uvm": loaded("nvidia_uvm")})
    (transition,) = plan(UnloadModule(subject=module("nvidia"), unit="u", serves=Disturbs.GPU), state=idle).transitions
    assert {thing.name for thing in transition.left_down} == {"nvidia_uvm", "nvidia_peermem", "gdrdrv", PERSISTENCED}
    assert words(transition.restore) == ["use NVML again"]


def test_explicit_unloads_are_not_quiesced_twice() -> None:
    idle = replace(busy_node(), processes={}, services={}, nvml_pid=None)
    chain = [loaded("nvidia", "nvidia_uvm"), loaded("nvidia_uvm")]
    idle = replace(idle, modules={one.name: one for one in chain})
    steps = [UnloadModule(subject=module(name), unit="u") for name in ("nvidia_uvm", "nvidia")]
    (transition,) = plan(*steps, state=idle).transitions
    assert transition.quiesce == ()
    assert words(transition.acts) == ["unload module nvidia_uvm", "unload module nvidia"]
    (swapped,) = plan(*reversed(steps), state=idle).transitions
    assert words(swapped.steps) == ["unload module nvidia_uvm", "unload module nvidia"]


def test_a_nic_in_use_blocks_when_idle_and_is_disturbed_when_allowed() -> None:
    state = NodeState(
        modules={"mlx5_core": loaded("mlx5_core")},
        netdevs={"ens1": Netdev("ens1", 1500, up=True, driver="mlx5_core", uses=("default route",))},
    )
    step = UnloadModule(subject=module("mlx5_core"), unit="u", serves=Disturbs.NIC)
    held = plan(step, state=state)
    assert [blocker.text for blocker in held.blocked[0].blockers] == ["default route on ens1"]
    allowed = plan(step, state=state, disruption=Disruption(nic=Policy.ALLOW))
    assert [blocker.refuses for blocker in allowed.transitions[0].disturbed] == [False]


def test_references_of_nobody_visible_block() -> None:
    state = NodeState(modules={"gdrdrv": loaded("gdrdrv", extra=2)})
    found = plan(UnloadModule(subject=module("gdrdrv"), unit="u", serves=Disturbs.GPU), state=state)
    assert "2 reference(s) to gdrdrv by nobody visible" in found.blocked[0].blockers[0].text


def test_a_unit_in_back_off_waits_and_so_do_those_behind_it() -> None:
    steps = (
        LoadModule(subject=module("nvidia"), unit="modules/nvidia"),
        LoadModule(subject=module("nvidia_uvm"), unit="modules/uvm", needs=("nvidia",)),
    )
    found = plan(*steps, state=NodeState(), postponed={"modules/nvidia": "failed once"})
    assert [entry.cause for entry in found.blocked] == ["failed once", "waits for: load module nvidia"]


def test_what_is_owed_comes_back_unless_it_is_there_or_decided_otherwise() -> None:
    owed = tuple(LoadModule(subject=module(name), unit="quiet") for name in ("gdrdrv", "nvidia", "nvidia_uvm"))
    steps = (UnloadModule(subject=module("nvidia_uvm"), unit="u"),)
    state = NodeState(modules={"nvidia": loaded("nvidia"), "nvidia_uvm": loaded("nvidia_uvm")})
    found = plan(*steps, state=state, owed=owed)
    assert [words(transition.acts) for transition in found.transitions] == [
        ["unload module nvidia_uvm"],
        ["load module gdrdrv"],
    ]
    assert found.transitions[1].is_owed


def test_steps_on_a_gpu_wait_for_the_reload_of_its_driver() -> None:
    idle = replace(busy_node(), processes={}, services={})
    idle = replace(idle, modules={"nvidia": loaded("nvidia", extra=1)})
    reload = (
        UnloadModule(subject=module("nvidia"), unit="modules/nvidia", serves=Disturbs.GPU),
        LoadModule(subject=module("nvidia"), unit="modules/nvidia"),
    )
    found = plan(*reload, change(0), state=idle)
    assert [entry.cause for entry in found.blocked] == ["waits for: unload module nvidia"]
    assert words(found.transitions[0].acts) == ["unload module nvidia", "load module nvidia"]


def test_a_client_of_every_gpu_comes_back_after_what_needs_a_gpu_quiet() -> None:
    """As after an interrupted run: gdrdrv is away, the node file wants it, and a mode is still to be changed."""
    state = busy_node()
    away = replace(state, modules={name: found for name, found in state.modules.items() if name != "gdrdrv"})
    load = LoadModule(subject=module("gdrdrv"), unit="modules/gdrdrv", needs=("nvidia",))
    first, second = plan(load, change(0), state=away).transitions
    assert first.acts == (change(0),)
    assert second.acts == (load,)
