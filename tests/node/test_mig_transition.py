"""A MIG transition that dies, hangs or meets a client on the way: no instance in use is lost, and the node recovers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from mortal import in_child, mortal
from nodeagent.errors import DeadlineError
from nodeagent.host.lock import node_lock
from nodeagent.plan.convergence import converge, goal_of
from nodeagent.plan.executor import Context
from nodeagent.plan.journal import Journal, Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.resources.mig_steps import CreateGpuInstance, DestroyComputeInstance, DestroyGpuInstance
from nodeagent.simulation.machine import MigRow
from nodeagent.simulation.node import open_node
from nodeagent.spec.reader import read_spec
from sim_node import GIB, SimNode, Told, sim_node

PROFILE = "gpu-server-4x-a100"
NEVER = 1_000_000
DRIVER = "modules: {nvidia: {modeset: false}}\n"
OFF = DRIVER + "mig: [{layout: all-disabled}]\n"
FIRST = DRIVER + "mig: [{mode: enabled, gpus: [0], devices: {1c.3g.20gb: 2, 1g.5gb: 4}}, {gpus: [1], layout: all-3g}]\n"
SECOND = DRIVER + (
    "mig: [{mode: enabled, gpus: [0], devices: {3g.20gb: 1, 2g.10gb: 1, 1g.5gb: 2}},"
    " {gpus: [1], mode: enabled, instances: [{profile: 4g, start: 0, compute: {1c: 2, 2c: 1}}, {profile: 2g}]}]\n"
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, PROFILE, "in-process") as made:
        yield made


def run_once(directory: str, file: str, instant: int) -> int:
    host = mortal(open_node(PROFILE, directory).host("in-process"), instant)
    with node_lock(directory):
        outcome = converge(goal_of(read_spec(file)), Context(Observer(host), Journal(host.files), Told()))
    return 0 if outcome.plan.converged and not outcome.failures else 1


def rows(node: SimNode, index: int = 0) -> list[MigRow]:
    return sorted(node.mig()[index].rows, key=lambda row: (row.placement, row.ci_placement))


def start_job(node: SimNode, profile: str, index: int = 0) -> MigRow:
    """A job on the last MIG device of this profile; its row."""
    row = [row for row in rows(node, index) if row.profile == profile][-1]
    node.node.start_mig_job(index, row.uuid, "serve.py", GIB)
    return row


@pytest.mark.parametrize("end", [SECOND, OFF], ids=["another layout", "mode off"])
def test_killed_at_every_step_what_is_in_use_stays_and_the_next_run_finishes(node: SimNode, end: str) -> None:
    """Between the two layouts a job on GPU 0 survives; with MIG to be off, nobody is there."""
    assert node.converge(FIRST).plan.converged
    kept = start_job(node, "1g.5gb") if end is SECOND else None
    texts = (end, FIRST)
    node.host.nvml.release()
    died = 0
    for instant in range(1, NEVER):
        text = texts[(instant - 1) % 2]
        file, place = node.write(text), node.node.directory
        code = in_child(partial(run_once, place, file, instant))
        assert kept is None or kept in rows(node), instant
        if code == 0:
            break
        assert code == -signal.SIGKILL, instant
        died += 1
        assert in_child(partial(run_once, place, file, NEVER)) == 0, instant
        assert kept is None or kept in rows(node), instant
        assert node.converge(text).steps_taken == 0
        assert not node.journal.exists()
        node.host.nvml.release()
    assert died > 8


def test_a_call_that_hangs_in_the_middle_is_reported_and_the_next_run_finishes(tmp_path: Path) -> None:
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        assert node.converge(FIRST).plan.converged
        kept = start_job(node, "1g.5gb")
        node.host.nvml.release()
        with closing(node.node.host("worker", deadline_seconds=1.0).nvml) as nvml:
            nvml_host = node.node.host("worker", deadline_seconds=1.0)
            node.node.machine.hang(node.uuid(0), "nvmlDeviceGetGpuInstances", 3)
            _, faults = nvml.gpus()
            assert [fault.uuid for fault in faults] == [node.uuid(0)]
            goal = goal_of(read_spec(node.write(SECOND)))
            with closing(nvml_host.nvml):
                outcome = converge(goal, Context(Observer(nvml_host), Journal(nvml_host.files), Told()))
            assert any("no answer within 1 s" in unknown.reason for unknown in outcome.state.unknown)
            assert kept in rows(node)
            assert [row.profile for row in rows(node, 1)] == ["4g.20gb"] * 3 + ["2g.10gb"], "the others went on"
        node.node.machine.clear_faults()
        assert node.converge(SECOND).plan.converged
        assert kept in rows(node)


def test_a_change_that_times_out_is_undone(tmp_path: Path) -> None:
    """The driver gives up on a creation; what was done to the GPU before is taken back."""
    with sim_node(tmp_path, PROFILE, "in-process") as node:
        assert node.converge(FIRST).plan.converged
        kept = start_job(node, "1g.5gb")
        before = [(row.profile, row.placement) for row in rows(node)]
        node.host.nvml.release()

        def act(phase: Phase, step: Step) -> None:
            if phase is Phase.ACT and isinstance(step, CreateGpuInstance) and step.subject.name == node.uuid(0):
                node.node.machine.fail(node.uuid(0), "nvmlDeviceCreateGpuInstanceWithPlacement", 10, 1)

        outcome = node.converge(SECOND, Told(before=act))
        (failure,) = outcome.failures
        assert isinstance(failure.error, DeadlineError)
        assert kept in rows(node)
        assert [(row.profile, row.placement) for row in rows(node)] == before
        assert node.converge(SECOND).plan.converged
        assert kept in rows(node)


@pytest.mark.parametrize("kind", [DestroyGpuInstance, DestroyComputeInstance])
def test_a_client_that_appears_between_check_and_act_is_not_hurt_and_the_layout_goes_back(
    node: SimNode, kind: type[Step]
) -> None:
    assert node.converge(FIRST).plan.converged
    before = [(row.profile, row.placement, row.ci_placement) for row in rows(node)]
    late: list[MigRow] = []

    def act(phase: Phase, step: Step) -> None:
        if phase is Phase.ACT and isinstance(step, kind) and step.subject.name == node.uuid(0) and not late:
            found = (row for row in rows(node) if row.placement == step.placement)
            row = next(row for row in found if kind is DestroyGpuInstance or row.ci_placement == step.compute)
            node.node.start_mig_job(0, row.uuid, "late.py", GIB)
            late.append(row)

    outcome = node.converge(SECOND, Told(before=act))
    (failure,) = outcome.failures
    assert "in use by process" in str(failure)
    assert late[0] in rows(node)
    assert [(row.profile, row.placement, row.ci_placement) for row in rows(node)] == before
    assert [row.profile for row in rows(node, 1)] == ["4g.20gb"] * 3 + ["2g.10gb"], "the other GPU went on"
    if kind is DestroyComputeInstance:
        (found,) = node.plan(SECOND).obstacles
        assert "beside what is in use: 3g.20gb at 4 by process" in found.problem
        assert "late.py" in found.problem
        assert "or wish for 1 x 1c.3g.20gb + " in found.advice
    else:
        assert node.converge(SECOND).plan.converged, "there is a way that leaves it where it is"
    assert late[0] in rows(node)


def test_a_layout_changed_behind_the_agents_back_is_put_right_on_the_next_pass(node: SimNode) -> None:
    assert node.converge(FIRST).plan.converged
    gpu = node.uuid(1)
    kept = rows(node, 0)
    node.host.nvml.destroy_gpu_instance(gpu, rows(node, 1)[0].placement)
    node.host.nvml.create_gpu_instance(gpu, "1g.5gb", rows(node, 0)[0].placement)
    plan = node.plan(FIRST)
    acts = [str(step).partition(" on GPU")[0] for transition in plan.transitions for step in transition.acts]
    assert [act for act in acts if "nvidia-cap" not in act] == ["destroy 1g.5gb at 0", "create 3g.20gb at 0"]
    assert node.converge(FIRST).plan.converged
    assert rows(node, 0) == kept
