"""The hardest case: MIG on GPUs that own modules, a service, our NVML worker and a foreign job hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.plan.journal import Phase
from nodeagent.resources.base import Step
from nodeagent.resources.mig_steps import SetMigMode
from nodeagent.simulation.kernel_state import LoadedModule
from sim_kernel import line_from, start_python
from sim_node import GIB, PERSISTENCED, SimNode, Told, loaded, sim_node, text_of

CONTAINER = "4f0c1a7be2d94f0c1a7be2d94f0c1a7be2d94f0c1a7be2d94f0c1a7be2d9aa01"
POD = "0f3c1d9e-53b0-4f6e-8a55-6f1d0c2b7a11"
MODULES = {
    "dgx-a100": "modules: {nvidia: {}, rdma: {}, peermem: nvidia_peermem, gdrcopy: true}\n",
    "gpu-server-4x-a100": "modules: {nvidia: {drm: true}, gdrcopy: true}\n",
}
HOLDING = {"dgx-a100": ("nvidia_peermem", "gdrdrv"), "gpu-server-4x-a100": ("gdrdrv", "nvidia_drm")}
DIVIDED = "mig: [{mode: enabled, devices: {3g.20gb: 1, 1g.5gb: 2}}]\n"
WANTED = ["1g.5gb", "1g.5gb", "3g.20gb"]
BUSY_GPU = 3


@pytest.fixture(params=["dgx-a100", "gpu-server-4x-a100"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def busy(tmp_path: Path, profile: str) -> Iterator[SimNode]:
    """Everything loaded, persistenced running, our worker in session; nobody else is there yet."""
    with sim_node(tmp_path, profile) as node:
        assert node.converge(MODULES[profile]).plan.converged
        assert node.host.nvml.pid() is not None
        node.host.services.start(PERSISTENCED)
        yield node


def start_job(node: SimNode, gpu: int = BUSY_GPU) -> int:
    return node.node.start_job(gpu, "train.py", 8 * GIB, CONTAINER, POD)


def job_name(pid: int, gpu: int = BUSY_GPU) -> str:
    return f"process {pid} (train.py --gpu {gpu}) in container {CONTAINER[:12]} (pod {POD})"


def is_back(node: SimNode, before: dict[str, LoadedModule]) -> bool:
    """Modules with their options, persistenced, and NVML are there as before."""
    now = loaded(node.kernel)
    return now == before and PERSISTENCED in node.kernel.services and len(node.host.nvml.gpus()[0]) == len(node.mig())


def test_the_plan_shows_what_lets_go_what_comes_back_and_who_is_in_the_way(busy: SimNode, profile: str) -> None:
    pid = start_job(busy)
    plan = busy.plan(MODULES[profile] + DIVIDED)
    (transition,) = plan.transitions
    unloads = {f"unload module {name}" for name in HOLDING[profile]}
    assert {str(step) for step in transition.quiesce} == {*unloads, f"stop service {PERSISTENCED}", "let go of NVML"}
    assert [step.subject for step in transition.restore] == [step.subject for step in reversed(transition.quiesce)]
    free = {gpu.uuid for gpu in busy.node.machine.gpus} - {busy.uuid(BUSY_GPU)}
    assert {step.subject.name for step in transition.acts} == free
    assert {entry.step.subject.name for entry in plan.blocked} == {busy.uuid(BUSY_GPU)}
    assert {blocker.text for entry in plan.blocked for blocker in entry.blockers} == {job_name(pid)}
    text = text_of(plan)
    assert f"by {job_name(pid)}, computes on GPU {BUSY_GPU} and has GPU {BUSY_GPU} open" in text
    for words in ("quiesce", "restore", "blocked, will not be touched", "needs quiet: gpu", "let go of NVML"):
        assert words in text


def test_without_partial_nothing_at_all_is_changed(
    busy: SimNode, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = start_job(busy)
    busy.host.nvml.release()
    before = busy.everything()
    file = busy.write(MODULES[profile] + DIVIDED)
    where = ("--simulate", profile, "--simulate-dir", busy.node.directory, "--file", file)
    assert main(["apply", *where]) == 6
    assert busy.everything() == before
    assert job_name(pid) in capsys.readouterr().err
    assert not busy.journal.exists()
    assert main(["check", *where]) == 3


def test_the_others_are_done_and_everything_comes_back(busy: SimNode, profile: str) -> None:
    pid = start_job(busy)
    options, untouched = loaded(busy.kernel), busy.mig()[BUSY_GPU]
    outcome = busy.converge(MODULES[profile] + DIVIDED)
    assert not outcome.failures
    expected = [WANTED] * len(busy.mig())
    expected[BUSY_GPU] = []
    assert busy.instances() == expected
    assert busy.mig()[BUSY_GPU] == untouched
    assert is_back(busy, options)
    assert str(pid) in busy.kernel.processes
    assert not outcome.plan.transitions
    assert {entry.step.subject.name for entry in outcome.plan.blocked} == {busy.uuid(BUSY_GPU)}
    assert not busy.journal.exists()


def test_when_the_job_has_ended_the_next_run_finishes_and_then_nothing_is_left(busy: SimNode, profile: str) -> None:
    pid = start_job(busy)
    options = loaded(busy.kernel)
    busy.converge(MODULES[profile] + DIVIDED)
    layouts = busy.mig()
    busy.node.end_job(pid)
    outcome = busy.converge(MODULES[profile] + DIVIDED)
    assert outcome.plan.converged
    assert busy.instances() == [WANTED] * len(layouts)
    done = [layout for index, layout in enumerate(busy.mig()) if index != BUSY_GPU]
    assert done == [layout for index, layout in enumerate(layouts) if index != BUSY_GPU]
    assert is_back(busy, options)
    generation = busy.kernel.generation
    assert busy.converge(MODULES[profile] + DIVIDED).steps_taken == 0
    assert busy.kernel.generation == generation


def test_memory_registered_through_peermem_is_in_the_way_of_every_gpu(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100") as node:
        node.converge(MODULES["dgx-a100"])
        pid = start_job(node)
        node.node.register_memory(pid, 2)
        before = node.everything()
        plan = node.plan(MODULES["dgx-a100"] + DIVIDED)
        assert not plan.transitions
        assert {entry.step.subject.name for entry in plan.blocked} == {gpu.uuid for gpu in node.node.machine.gpus}
        assert "by 2 memory region(s) registered through nvidia_peermem, is pinned for a NIC" in text_of(plan)
        assert node.converge(MODULES["dgx-a100"] + DIVIDED).steps_taken == 0
        assert node.everything() == before
        node.node.register_memory(pid, -2)
        node.converge(MODULES["dgx-a100"] + DIVIDED)
        assert node.instances().count(WANTED) == len(node.mig()) - 1


@pytest.mark.parametrize("kind", ["job", "open device file"])
def test_a_client_that_appears_between_plan_and_act_is_unwound_and_the_others_are_done(
    busy: SimNode, profile: str, kind: str
) -> None:
    late, came = 2, []
    options = loaded(busy.kernel)
    path = f"{busy.node.directory}/dev/nvidia{late}"
    opener = start_python("import sys; input(); file = open(sys.argv[1]); print('open', flush=True); input()", path)

    def intrude(phase: Phase, step: Step) -> None:
        if phase is not Phase.ACT or not isinstance(step, SetMigMode) or step.subject.name != busy.uuid(late):
            return
        if kind == "job":
            came.append(job_name(start_job(busy, late), late))
        else:
            print(file=opener.stdin, flush=True)
            assert line_from(opener) == "open"
            came.append(f"process {opener.pid} (")

    told = Told(before=intrude)
    outcome = busy.converge(MODULES[profile] + DIVIDED, told)
    expected = [WANTED] * len(busy.mig())
    expected[late] = []
    assert busy.instances() == expected
    assert [failure.step.subject.name for failure in outcome.failures] == [busy.uuid(late)]
    assert not busy.mig()[late].pending
    assert is_back(busy, options)
    assert not busy.journal.exists()
    assert not outcome.plan.transitions
    assert came[0] in text_of(outcome.plan)
    opener.communicate("\n\n")
