"""What is decided becomes steps that wait for whoever is in the way: never an action on a GPU in use."""

from __future__ import annotations

import random
from dataclasses import replace

from nodeagent.plan.model import Plan
from nodeagent.plan.sequencer import Terms, sequence
from nodeagent.remediation.decide import decide
from nodeagent.remediation.follow import began, ended, follow
from nodeagent.remediation.wishes import drain_wish, reboot_wish, wish_for
from nodeagent.resources.repair_steps import ResetGpu, RestoreGpuInstance
from nodeagent.spec.remediation import Remediation, RemediationMode, RepairLimits, RepairRule
from nodeagent.spec.schema import Disruption, NodeSpec, Policy
from nodeagent.state.gpu import Gpu, GpuInstance, MigMode, Placement
from nodeagent.state.health import Finding, Recovery, Subject, SubjectKind, Verdict
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNumber, Process
from nodeagent.state.repair import AttemptOutcome, Decision, RepairAction, RepairMemory, Standing
from nodeagent.state.things import Kind

GPUS = 4
WORKER = 77
SECTION = Remediation(
    RemediationMode.ON,
    (
        RepairRule(
            recoveries=(Recovery.RESET_GPU, Recovery.DRAIN_AND_RESET),
            actions=(RepairAction.RESET_GPU, RepairAction.RELOAD_MODULES),
            approval=False,
        ),
    ),
    RepairLimits(settle_seconds=0, cooldown_seconds=0, verify_seconds=1, attempts=10, per_device=10, per_node=100,
                 systemic_ratio=1.0),
)  # fmt: skip
SPEC = NodeSpec(1, remediation=SECTION)


def gpu(index: int, pids: tuple[int, ...] = (), instances: tuple[GpuInstance, ...] = ()) -> Gpu:
    mode = MigMode.ENABLED if instances else MigMode.DISABLED
    return Gpu(f"GPU-{index}", index, index, f"0000:0{index}:00.0", "A100", 40 << 30, mode, mode, pids=pids,
               instances=instances)  # fmt: skip


def node(rng: random.Random) -> tuple[NodeState, frozenset[str]]:
    """A state with random jobs, and the GPUs that they use: by an open file, or because NVML says so."""
    used: set[int] = set()
    processes, pids = [Process(WORKER, "nvml")], dict.fromkeys(range(GPUS), ())
    for pid in range(100, 100 + rng.randrange(3)):
        index, way = rng.randrange(GPUS), rng.randrange(3)
        used.add(index)
        opens = () if way == 0 else (DeviceNumber(195, index), DeviceNumber(195, 255))
        if way != 1:
            pids[index] = (*pids[index], pid)
        processes.append(Process(pid, "train.py", opens=opens))
    gpus = {f"GPU-{n}": gpu(n, pids[n], _instances(rng)) for n in range(GPUS) if rng.random() < 0.95}
    references = sum(len(one.opens) for one in processes) + 1
    driver = KernelModule("nvidia", Liveness.LIVE, references, ())
    state = NodeState(
        modules={"nvidia": driver},
        gpus=gpus,
        majors={"nvidia": 195},
        processes={one.pid: one for one in processes},
        nvml_pid=rng.choice([WORKER, None]),
    )
    return state, frozenset(f"GPU-{n}" for n in used)


def _instances(rng: random.Random) -> tuple[GpuInstance, ...]:
    if rng.random() < 0.7:
        return ()
    return tuple(GpuInstance("1g.5gb", 19, Placement(n, 1), n) for n in range(rng.randrange(3)))


def findings(rng: random.Random) -> tuple[Finding, ...]:
    subjects = [Subject(SubjectKind.GPU, f"GPU-{n}", f"0000:0{n}:00.0") for n in range(GPUS)]
    recovery = rng.choice([Recovery.RESET_GPU, Recovery.DRAIN_AND_RESET])
    return tuple(
        Finding(one, "xid", Verdict.FAILED if rng.random() < 0.5 else Verdict.OK, recovery=recovery) for one in subjects
    )


def disturbed(plan: Plan) -> set[str]:
    """GPUs that the plan's transitions need to be quiet; the driver means all of them."""
    claims = {thing for one in plan.transitions for step in one.steps for thing in (*step.claims, *step.gone)}
    if any(thing.kind is Kind.MODULE and thing.name == "nvidia" for thing in claims):
        return {f"GPU-{n}" for n in range(GPUS)}
    return {thing.name.partition("/")[0] for thing in claims if thing.kind is Kind.GPU}


def test_no_gpu_in_use_is_touched_in_10000_random_histories() -> None:
    rng, resets, held = random.Random(11), 0, 0
    for _ in range(10_000):
        memory, policy = RepairMemory(), rng.choice([Policy.WHEN_IDLE, Policy.ALLOW])
        for now in range(100, 100 + 10 * rng.randint(1, 2), 10):
            (state, used), seen = node(rng), findings(rng)
            memory = follow(seen, (), SECTION, memory, now).memory
            for decision in decide(seen, SECTION, memory, now):
                if decision.standing is not Standing.READY:
                    continue
                plan = sequence((wish_for(decision, SPEC, state),), state, Terms(Disruption(gpu=policy)))
                assert not disturbed(plan) & used, (decision, used)
                linked = decision.action is RepairAction.RESET_GPU and seen[0].recovery is Recovery.DRAIN_AND_RESET
                assert not (plan.transitions and linked and used & state.gpus.keys())
                held += bool(plan.blocked)
                if plan.transitions:
                    resets += 1
                    memory = ended(began(memory, decision, now), AttemptOutcome.DONE, "", now)
                    break
    assert resets > 3_000
    assert held > 3_000


def wish_of(state: NodeState, recovery: Recovery = Recovery.RESET_GPU, **subject: str) -> list[object]:
    what = Subject(SubjectKind.GPU, **subject)
    finding = Finding(what, "xid", Verdict.FAILED, recovery=recovery)
    decision = Decision("1", what, RepairAction.RESET_GPU, Standing.READY, "", (finding,))
    wish = wish_for(decision, SPEC, state)
    return [*wish.steps, *wish.obstacles]


def test_instances_come_back_after_the_reset_and_are_owed_until_then() -> None:
    two = tuple(GpuInstance("3g.20gb", 9, Placement(4 * n, 4), n) for n in range(2))
    reset, *back = wish_of(NodeState(gpus={"GPU-0": gpu(0, (), two), "GPU-1": gpu(1)}), name="GPU-0")
    assert isinstance(reset, ResetGpu)
    assert [one.placement.start for one in back if isinstance(one, RestoreGpuInstance)] == [0, 4]
    assert set(reset.gone) == {thing for one in back if isinstance(one, RestoreGpuInstance) for thing in one.back}
    assert reset.peers == ()
    (linked,) = wish_of(NodeState(gpus={"GPU-0": gpu(0), "GPU-1": gpu(1)}), Recovery.DRAIN_AND_RESET, name="GPU-0")
    assert isinstance(linked, ResetGpu)
    assert linked.peers == ("GPU-1",)


def test_a_gpu_that_does_not_answer_is_not_touched() -> None:
    (obstacle,) = wish_of(NodeState(gpus={"GPU-1": gpu(1)}), name="GPU-0")
    assert "who uses it" in str(obstacle)


def test_a_card_that_is_gone_or_has_no_driver_is_an_obstacle() -> None:
    address = "0000:50:00.0"
    what = Subject(SubjectKind.PORT, "", address)
    finding = Finding(what, "gid", Verdict.FAILED, recovery=Recovery.REBIND_NIC)
    decision = Decision("1", what, RepairAction.REBIND_NIC, Standing.READY, "", (finding,))
    function = PciFunction(address, "15b3", "1021", "020000")
    for pci, steps in (({}, 0), ({address: function}, 0), ({address: replace(function, driver="mlx5_core")}, 1)):
        wish = wish_for(decision, SPEC, NodeState(pci=pci))
        assert (len(wish.steps), len(wish.obstacles)) == (steps, 1 - steps)
    reload = replace(decision, action=RepairAction.RELOAD_MODULES)
    assert "nothing of nvidia is loaded" in str(wish_for(reload, SPEC, NodeState()).obstacles[0])


def test_chores_are_done_once_and_taken_back() -> None:
    asked = RepairMemory(reboot_asked="xid of gpu GPU-0")
    (write,) = reboot_wish("/r", None, asked).steps
    assert str(write) == "write the request for a reboot, /r"
    assert not reboot_wish("/r", "xid of gpu GPU-0", asked).steps
    assert str(reboot_wish("/r", "old", RepairMemory()).steps[0]).startswith("remove")
    assert not drain_wish("n", "", "").steps
    assert not drain_wish("n", "a", "a").steps
    assert [str(drain_wish("n", *why).steps[0]) for why in (("a", ""), ("b", "a"), ("", "b"))] == [
        "drain n in Slurm",
        "drain n in Slurm",
        "lift our drain of n in Slurm",
    ]
