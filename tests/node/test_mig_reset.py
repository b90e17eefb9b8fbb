"""A MIG mode that needs a reset the driver does not do: only what is pending is reset, or a reboot asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.errors import UnsupportedError
from nodeagent.plan.journal import Phase
from nodeagent.resources.base import Step
from nodeagent.resources.mig_steps import SetMigMode
from nodeagent.simulation.machine import ResetRoute
from sim_node import GIB, SimNode, Told, sim_node

PROFILE = "gpu-server-4x-a100"
DRIVER = "modules: {nvidia: {modeset: false}}\n"
WANTED = DRIVER + "mig: [{gpus: [0, 1], layout: all-3g}]\n"
OFF = DRIVER + "mig: [{gpus: [0, 1], layout: all-disabled}]\n"


@pytest.fixture(params=["in-process", "worker"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SimNode]:
    with sim_node(tmp_path, PROFILE, request.param) as made:
        assert made.converge(DRIVER).plan.converged
        yield made


def route(node: SimNode, way: ResetRoute, *indices: int) -> None:
    for index in indices:
        node.node.machine.set_reset_route(node.uuid(index), way)


def resets(node: SimNode) -> list[int]:
    return [node.node.machine.resets(gpu.uuid) for gpu in node.node.machine.gpus]


def modes(node: SimNode) -> list[tuple[bool, bool]]:
    return [(layout.enabled, layout.pending) for layout in node.mig()]


@pytest.mark.parametrize("way", [ResetRoute.DRIVER, ResetRoute.TOLD])
def test_only_the_gpus_whose_mode_changes_are_reset_and_work_on_the_others_goes_on(
    node: SimNode, way: ResetRoute
) -> None:
    route(node, way, 0, 1, 2, 3)
    job = node.node.start_job(3, "train.py", GIB)
    assert node.converge(WANTED).plan.converged
    assert resets(node) == [1, 1, 0, 0]
    assert node.instances() == [["3g.20gb", "3g.20gb"], ["3g.20gb", "3g.20gb"], [], []]
    assert str(job) in node.kernel.processes
    assert node.converge(OFF).plan.converged
    assert resets(node) == [2, 2, 0, 0]


def test_where_nothing_but_a_reboot_resets_a_gpu_that_is_said_once_and_the_others_go_on(node: SimNode) -> None:
    route(node, ResetRoute.REBOOT, 0)
    outcome = node.converge(WANTED)
    (failure,) = outcome.failures
    assert isinstance(failure.error, UnsupportedError)
    assert str(failure) == (
        f"enable MIG on {node.uuid(0)}: enabled is pending: the driver did not reset the gpu, and "
        "the platform offers no reset of its pci function; reboot the node"
    )
    assert modes(node) == [(False, True), (True, True), (False, False), (False, False)]
    assert resets(node) == [0, 1, 0, 0]
    plan = node.plan(WANTED)
    assert not plan.transitions, "it is not asked again"
    (found,) = plan.obstacles
    assert found.problem == "MIG is disabled, enabled is pending, and this GPU cannot be reset while the node runs"
    assert found.advice == "reboot"


def test_after_the_reboot_the_pending_mode_is_in_force_and_the_layout_is_made(node: SimNode) -> None:
    route(node, ResetRoute.REBOOT, 0)
    node.converge(WANTED)
    node.host.nvml.release()
    node.node.reboot()
    assert not node.plan(DRIVER).converged, "the driver is gone"
    assert node.converge(WANTED).plan.converged
    assert node.instances()[:2] == [["3g.20gb", "3g.20gb"]] * 2


def test_a_reload_of_the_driver_does_not_stand_in_for_the_reboot(node: SimNode) -> None:
    route(node, ResetRoute.REBOOT, 0)
    node.converge(WANTED)
    node.host.nvml.release()
    for loaded in (False, True):
        node.node.machine.set_driver_loaded(loaded)
    assert modes(node)[0] == (False, True)


def test_a_pending_mode_that_nobody_asked_for_is_taken_back_without_a_reset(node: SimNode) -> None:
    route(node, ResetRoute.REBOOT, 0)
    node.converge(WANTED)
    assert node.converge(OFF).plan.converged
    assert modes(node)[0] == (False, False)
    assert resets(node)[0] == 0


def test_who_holds_the_gpu_is_found_before_the_driver_is_asked(node: SimNode) -> None:
    route(node, ResetRoute.TOLD, 0, 1)
    pid = node.node.start_job(0, "train.py", GIB)
    outcome = node.converge(WANTED)
    (blocked,) = [entry for entry in outcome.plan.blocked if isinstance(entry.step, SetMigMode)]
    assert f"process {pid} (train.py --gpu 0)" in [blocker.text for blocker in blocked.blockers]
    assert modes(node)[:2] == [(False, False), (True, True)]
    node.node.end_job(pid)
    assert node.converge(WANTED).plan.converged


@pytest.mark.parametrize(
    ("way", "said", "pending"),
    [
        (ResetRoute.DRIVER, "in use by process", False),
        (ResetRoute.TOLD, "enabled is pending: the driver did not reset the gpu, and device or resource busy", True),
    ],
)
def test_who_comes_between_check_and_reset_is_not_hurt_and_the_next_pass_finishes(
    node: SimNode, way: ResetRoute, said: str, pending: bool
) -> None:
    route(node, way, 0)
    late: list[int] = []

    def act(phase: Phase, step: Step) -> None:
        if phase is Phase.ACT and isinstance(step, SetMigMode) and step.subject.name == node.uuid(0) and not late:
            late.append(node.node.start_job(0, "late.py", GIB))

    (failure,) = node.converge(WANTED, Told(before=act)).failures
    assert said in str(failure)
    assert modes(node)[0] == (False, pending)
    assert str(late[0]) in node.kernel.processes
    assert resets(node)[0] == 0
    assert any("late.py" in one.text for entry in node.plan(WANTED).blocked for one in entry.blockers)
    node.node.end_job(late[0])
    assert node.converge(WANTED).plan.converged


def test_boards_that_change_at_once_need_no_reset(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-h100", "in-process") as node:
        assert node.converge(DRIVER).plan.converged
        route(node, ResetRoute.REBOOT, 0, 1)
        assert node.converge(WANTED).plan.converged
        assert resets(node) == [0] * 8


Verb = Callable[..., tuple[int, str]]


@pytest.fixture
def verb(node: SimNode, capsys: pytest.CaptureFixture[str]) -> Verb:
    where = ("--simulate", PROFILE, "--simulate-dir", node.node.directory)

    def call(*words: str) -> tuple[int, str]:
        node.host.nvml.release()
        code = main([*words, *where])
        told = capsys.readouterr()
        return code, told.out + told.err

    return call


def test_the_verbs_say_that_a_reboot_is_needed(node: SimNode, verb: Verb) -> None:
    assert verb("simulate", "reset-route", "reboot", "--gpu", "1")[0] == 0
    code, told = verb("mig", "apply", "--layout", "all-3g", "--gpus", "1")
    assert code == 1
    assert "reboot the node" in told
    code, told = verb("mig", "show", "--gpus", "1")
    assert code == 0
    assert "MIG disabled, enabled is pending" in told
    assert verb("simulate", "reboot")[0] == 0
    assert verb("modules", "load", "nvidia")[0] == 0
    assert verb("mig", "apply", "--layout", "all-3g", "--gpus", "1")[0] == 0
    assert node.instances()[1] == ["3g.20gb", "3g.20gb"]
