"""Validation in the background: what is tried when, on a simulated node and without a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, HostError
from nodeagent.host.paths import CDI_DYNAMIC, CONTAINERD_CONFIG, VALIDATIONS
from nodeagent.host.ports import Cuda
from nodeagent.plan.convergence import Outcome as Done
from nodeagent.plan.executor import Report
from nodeagent.plan.journal import Phase
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.simulation.container_runtimes import SimulatedRuntimes
from nodeagent.spec.containers import Component
from nodeagent.spec.schema import NodeSpec
from nodeagent.spec.validation import GpuTrials
from nodeagent.spec.validation import Validation as Section
from nodeagent.state.node import NodeState
from nodeagent.state.proofs import Outcome, Proof, Trial, TrialResult, Work
from nodeagent.state.things import module
from nodeagent.supervisor.status import Identity, Pass, Status
from nodeagent.supervisor.validation_watch import ValidationWatch, Withdrawing
from sim_node import SimNode, Told, sim_node

FILE = "modules: {nvidia: {modeset: false}}\n"


@dataclass
class Counted:
    """A CUDA driver that keeps what it was asked; `broken` maps a device to its error."""

    broken: dict[str, HostError] = field(default_factory=dict)
    asked: list[Trial] = field(default_factory=list)

    def attempt(self, trial: Trial, deadline_seconds: float) -> TrialResult:
        self.asked.append(trial)
        for uuid in trial.uuids:
            if uuid in self.broken:
                raise self.broken[uuid]
        figures = dict.fromkeys(("to_device_bytes_per_second", "from_device_bytes_per_second", "bytes_per_second"), 1e9)
        return TrialResult(figures, {"product": "T", "cuda": "13.0", "route": "direct", "library": "l"})

    def count(self, work: Work) -> int:
        return sum(trial.work is work for trial in self.asked)


@dataclass
class Ward:
    """A watch on a converged node; one look is one round."""

    sim: SimNode
    cuda: Counted
    watch: ValidationWatch

    @property
    def ready(self) -> set[str]:
        folder = Path(self.sim.node.directory + VALIDATIONS)
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def outcomes(self, proof: Proof) -> set[Outcome]:
        return {one.outcome for one in self.watch.latest().of(proof)}

    def section(self, **more: object) -> None:
        self.watch.spec = NodeSpec(version=1, validation=replace(Section(), **more))


CONVERGED = Status(
    Identity(1, "n", "p", "f", 0.0), last=Pass(Done(NodeState(), Plan()), ("start",), 0.0, 0.0), passes=1
)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as sim:
        sim.converge(FILE)
        cuda = Counted()
        port: Cuda = cuda
        observer = Observer(replace(sim.host, cuda=port))
        spec = NodeSpec(version=1, validation=Section(gpu_trials=GpuTrials.AT_START))
        yield Ward(sim, cuda, ValidationWatch(observer, spec, lambda: CONVERGED, threading.Lock()))


def test_gpus_are_tried_once_and_the_rest_in_every_round(ward: Ward) -> None:
    ward.watch.look()
    assert (ward.cuda.count(Work.VECTOR), ward.cuda.count(Work.PEER)) == (4, 4)
    ward.watch.look()
    assert (ward.cuda.count(Work.VECTOR), ward.cuda.count(Work.PEER)) == (4, 4)
    assert ward.outcomes(Proof.CUDA) == {Outcome.PASSED}
    assert {"driver-ready", "cuda-ready", ".driver-ctr-ready"} <= ward.ready


def test_always_and_never(ward: Ward) -> None:
    ward.section(gpu_trials=GpuTrials.NEVER, ready_files=Component.OFF)
    ward.watch.look()
    assert ward.cuda.asked == []
    assert ward.outcomes(Proof.DRIVER) == {Outcome.PASSED}
    assert ward.ready == set()
    ward.section(gpu_trials=GpuTrials.ALWAYS)
    ward.watch.look()
    ward.watch.look()
    assert ward.cuda.count(Work.VECTOR) == 8


def test_nothing_is_done_without_the_section(ward: Ward) -> None:
    ward.watch.spec = NodeSpec(version=1)
    ward.watch.look()
    assert ward.watch.latest().findings == ()


def test_a_gpu_that_was_held_is_tried_when_it_is_free_and_no_other_again(ward: Ward) -> None:
    pid = ward.sim.node.start_job(2, "train.py", 1 << 30)
    ward.watch.look()
    assert ward.cuda.count(Work.VECTOR) == 3
    assert ward.outcomes(Proof.CUDA) == {Outcome.PASSED, Outcome.SKIPPED}
    assert "cuda-ready" not in ward.ready
    ward.sim.node.end_job(pid)
    ward.watch.look()
    assert ward.cuda.count(Work.VECTOR) == 4
    assert ward.cuda.asked[-1].work is Work.PEER
    assert "cuda-ready" in ward.ready


def test_a_gpu_that_passed_and_is_held_now_still_has_passed(ward: Ward) -> None:
    ward.watch.look()
    ward.sim.node.start_job(2, "train.py", 1 << 30)
    ward.watch.look()
    assert ward.outcomes(Proof.CUDA) == {Outcome.PASSED}
    assert ward.cuda.count(Work.VECTOR) == 4


@pytest.mark.parametrize(("kind", "outcome"), [(HostError, Outcome.FAILED), (BusyError, Outcome.SKIPPED)])
def test_a_gpu_that_failed_is_tried_again(ward: Ward, kind: type[HostError], outcome: Outcome) -> None:
    bad = ward.sim.uuid(1)
    ward.cuda.broken[bad] = kind("compute on", bad, "no")
    ward.watch.look()
    assert ward.outcomes(Proof.CUDA) == {Outcome.PASSED, outcome}
    assert "cuda-ready" not in ward.ready
    ward.cuda.broken.clear()
    ward.watch.look()
    assert ward.outcomes(Proof.CUDA) == {Outcome.PASSED}
    assert ward.cuda.count(Work.VECTOR) == 5
    assert "cuda-ready" in ward.ready


def test_steps_at_work_are_not_disturbed(ward: Ward) -> None:
    with ward.watch.hardware:
        ward.watch.look()
    assert ward.watch.latest().findings == ()
    blocked = replace(CONVERGED, trouble="it cannot be observed")
    ward.watch.status = lambda: blocked
    ward.watch.look()
    assert ward.cuda.asked == []  # the GPUs are left alone on a node that is not as its file says


def test_ready_files_go_before_the_driver_does(ward: Ward) -> None:
    ward.watch.look()
    seen: list[set[str]] = []
    inner: Report = Told(before=lambda phase, step: seen.append(ward.ready))
    report = Withdrawing(inner, ward.watch)
    report.started(Phase.ACT, LoadModule(subject=module("nvidia"), unit="u", reason="r"))
    report.started(Phase.ACT, UnloadModule(subject=module("gdrdrv"), unit="u", reason="r"))
    report.started(Phase.ACT, UnloadModule(subject=module("nvidia_uvm"), unit="u", reason="r"))
    assert [("cuda-ready" in one) for one in seen] == [True, True, False]
    assert ward.ready == set()


def test_a_runtime_resolves_what_the_agent_has_written(ward: Ward) -> None:
    """From node file to proof: without CDI the toolkit fails, with the sections `cdi` and `runtimes` it passes."""
    directory = ward.sim.node.directory
    SimulatedRuntimes(directory).install("containerd", "1.7.24")
    config = Path(directory + CONTAINERD_CONFIG)
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("version = 2\n")
    ward.section(ready_files=Component.ON)
    ward.watch.look()
    failed = {one.subject for one in ward.watch.latest().of(Proof.TOOLKIT)}
    assert failed == {"containerd", *(ward.sim.uuid(index) for index in range(4))}
    assert ward.outcomes(Proof.TOOLKIT) == {Outcome.FAILED}
    assert ward.sim.converge(FILE + "cdi: {}\nruntimes: {}\n").plan.converged
    ward.watch.look()
    assert ward.outcomes(Proof.TOOLKIT) == {Outcome.PASSED}
    assert "toolkit-ready" in ward.ready
    (specification,) = Path(directory + CDI_DYNAMIC).glob("*gpu*")
    specification.unlink()
    ward.watch.look()
    assert "toolkit-ready" not in ward.ready
