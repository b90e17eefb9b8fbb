"""What the owner of NVML workers does when they hang, end or stay: with scripted workers and a clock by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from nodeagent.errors import DeadlineError, GoneError, HostError
from nodeagent.host.nvml_process import WorkerLostError
from nodeagent.host.nvml_worker import WorkerNvml


@dataclass
class Machine:
    """A driver with GPUs that answer, hang, or end the process that asks."""

    count: int = 4
    hanging: set = field(default_factory=set)
    fatal: set = field(default_factory=set)
    lost: set = field(default_factory=set)
    unkillable: bool = False
    loaded: bool = True
    workers: list = field(default_factory=list)
    now: float = 100.0

    def launch(self):
        self.workers.append(ScriptedWorker(self, 1000 + len(self.workers)))
        return self.workers[-1]

    def nvml(self) -> WorkerNvml:
        return WorkerNvml(deadline_seconds=10, launch=self.launch, monotonic=lambda: self.now)

    @property
    def asked(self) -> list:
        return [request for worker in self.workers for request in worker.asked]


@dataclass(eq=False)
class ScriptedWorker:
    machine: Machine
    pid: int
    asked: list = field(default_factory=list)
    running: bool = True
    sent: list = field(default_factory=list)

    def alive(self) -> bool:
        return self.running

    def end(self) -> bool:
        self.running = self.running and self.machine.unkillable
        return not self.running

    def ask(self, method, arguments, deadline_seconds):
        assert not self.sent, "the answers to these are still to come"
        self.asked.append((method, *arguments))
        return getattr(self, method)(*arguments)

    def send(self, requests, deadline_seconds):
        if not self.running:
            raise WorkerLostError("it was killed")
        self.sent.extend(requests)

    def next(self, deadline_seconds):
        method, arguments = self.sent.pop(0)
        self.asked.append((method, *arguments))
        return getattr(self, method)(*arguments)

    def open(self):
        if "open" in self.machine.hanging:
            raise TimeoutError
        if not self.machine.loaded:
            raise GoneError("open", "NVML", "the nvidia driver is not loaded")

    def count(self):
        if "count" in self.machine.hanging:
            raise TimeoutError
        return self.machine.count

    def identify(self, index):
        return f"GPU-{index}"

    def read(self, index):
        if index in self.machine.hanging:
            raise TimeoutError
        if index in self.machine.fatal:
            self.running = False
            raise WorkerLostError("its process was ended by SIGSEGV")
        if index in self.machine.lost:
            raise GoneError("read", f"gpu GPU-{index}", "the gpu is lost")
        return f"state of GPU-{index}"

    sample = read

    def ask_mig_mode(self, uuid, enabled):
        self.read(int(uuid.removeprefix("GPU-")))

    def release(self):
        pass


def readings(machine: Machine, index: int) -> int:
    return machine.asked.count(("read", index))


def test_a_hanging_gpu_costs_one_deadline_and_the_others_are_read():
    machine = Machine(hanging={1})
    nvml = machine.nvml()
    values, faults = nvml.gpus()
    assert values == ("state of GPU-0", "state of GPU-2", "state of GPU-3")
    assert [fault.uuid for fault in faults] == ["GPU-1"]
    assert faults[0].reason.startswith("no answer within 10 s, fenced off since ")
    assert nvml.gpus() == (values, faults), "the fault does not change while the fence stands"
    assert readings(machine, 1) == 1
    assert nvml.samples() == values
    assert len(machine.workers) == 2


def test_a_fenced_gpu_is_tried_again_after_a_growing_time():
    machine = Machine(hanging={1})
    nvml = machine.nvml()
    tried_at = []
    for _ in range(300):
        before = readings(machine, 1)
        nvml.gpus()
        if readings(machine, 1) > before:
            tried_at.append(machine.now - 100)
        machine.now += 10
    assert tried_at == [0, 30, 90, 210, 450, 930, 1890]
    machine.hanging.clear()
    machine.now += 2000
    assert nvml.gpus()[1] == ()
    machine.hanging.add(1)
    nvml.gpus()
    machine.now += 31
    machine.hanging.clear()
    assert nvml.gpus()[1] == (), "an answer makes the wait short again"


def test_a_gpu_is_not_tried_again_while_a_worker_still_hangs_on_it():
    machine = Machine(hanging={1}, unkillable=True)
    nvml = machine.nvml()
    nvml.gpus()
    machine.now += 10_000
    nvml.unfence()
    nvml.gpus()
    assert readings(machine, 1) == 1
    machine.hanging.clear()
    machine.workers[0].running = False
    assert nvml.gpus()[1] == ()


def test_with_two_stuck_workers_no_third_is_started():
    machine = Machine(hanging={1, 2}, unkillable=True)
    nvml = machine.nvml()
    with pytest.raises(DeadlineError, match="unresponsive: processes 1000, 1001 hang in it"):
        nvml.gpus()
    with pytest.raises(DeadlineError, match="unresponsive"):
        nvml.samples()
    assert len(machine.workers) == 2
    assert nvml.pid() is None
    machine.workers[0].running = False
    assert [fault.uuid for fault in nvml.gpus()[1]] == ["GPU-1", "GPU-2"], "one place is free again"


@pytest.mark.parametrize("where", ["open", "count"])
def test_a_driver_that_hangs_as_a_whole(where):
    machine = Machine(hanging={where})
    nvml = machine.nvml()
    with pytest.raises(DeadlineError, match="no answer within 10 s; the driver may hang"):
        nvml.gpus()
    assert not machine.workers[0].running
    machine.hanging.clear()
    assert len(nvml.gpus()[0]) == 4


def test_a_gpu_whose_reading_ends_the_worker_is_tried_once_more_and_then_fenced():
    machine = Machine(fatal={2})
    values, faults = machine.nvml().gpus()
    assert len(values) == 3
    assert "reading it ended the worker: its process was ended by SIGSEGV" in faults[0].reason
    assert readings(machine, 2) == 2


def test_an_error_of_one_gpu_is_a_fault_without_a_fence():
    machine = Machine(lost={0})
    nvml = machine.nvml()
    assert [(fault.uuid, fault.reason) for fault in nvml.gpus()[1]] == [("GPU-0", "the gpu is lost")]
    machine.lost.clear()
    assert nvml.gpus()[1] == ()
    assert len(machine.workers) == 1


def test_another_number_of_gpus_voids_the_fences():
    machine = Machine(hanging={1})
    nvml = machine.nvml()
    nvml.gpus()
    machine.hanging.clear()
    machine.count = 3
    assert len(nvml.gpus()[0]) == 3


def test_without_a_driver_the_worker_holds_no_session():
    machine = Machine(loaded=False)
    nvml = machine.nvml()
    with pytest.raises(GoneError):
        nvml.gpus()
    assert nvml.pid() is None
    machine.loaded = True
    nvml.gpus()
    assert nvml.pid() == 1000, "the same worker"


def test_a_fenced_gpu_is_not_changed():
    machine = Machine(hanging={1})
    nvml = machine.nvml()
    nvml.gpus()
    with pytest.raises(DeadlineError, match=r"^enable MIG on gpu GPU-1: no answer"):
        nvml.set_mig_mode("GPU-1", enabled=True)
    nvml.set_mig_mode("GPU-0", enabled=True)
    assert ("ask_mig_mode", "GPU-1", True) not in machine.asked


def test_a_change_that_hangs_or_ends_the_worker_is_an_error_and_not_repeated():
    machine = Machine(hanging={1}, fatal={2})
    nvml = machine.nvml()
    with pytest.raises(DeadlineError, match="no answer within 120 s"):
        nvml.set_mig_mode("GPU-1", enabled=False)
    with pytest.raises(HostError, match=r"^disable MIG on gpu GPU-2: the NVML worker is gone"):
        nvml.set_mig_mode("GPU-2", enabled=False)
    assert machine.asked.count(("ask_mig_mode", "GPU-2", False)) == 1


def test_release_ends_the_worker_and_the_next_call_starts_another():
    machine = Machine()
    nvml = machine.nvml()
    nvml.release()
    assert machine.workers == []
    nvml.gpus()
    nvml.release()
    assert nvml.pid() is None
    assert not machine.workers[0].running
    nvml.gpus()
    assert nvml.pid() == 1001


def test_release_says_when_the_worker_cannot_be_ended():
    machine = Machine(unkillable=True)
    nvml = machine.nvml()
    nvml.gpus()
    with pytest.raises(DeadlineError, match=r"^release NVML: process 1000 hangs in the driver"):
        nvml.release()


def test_a_worker_that_was_killed_is_replaced():
    machine = Machine()
    nvml = machine.nvml()
    nvml.gpus()
    machine.workers[0].running = False
    nvml.gpus()
    assert nvml.pid() == 1001


def test_known_gpus_are_asked_about_without_waiting_in_between():
    machine = Machine(hanging=set())
    nvml = machine.nvml()
    nvml.gpus()
    nvml.gpus()
    assert machine.workers[0].asked[-4:] == [("read", index) for index in range(4)]
    machine.hanging.add(1)
    machine.fatal.add(2)
    values, faults = nvml.gpus()
    assert values == ("state of GPU-0", "state of GPU-3")
    assert [fault.uuid for fault in faults] == ["GPU-1", "GPU-2"]
    machine.fatal.clear()
    machine.now += 31
    nvml.gpus()
    assert nvml.gpus()[0] == ("state of GPU-0", "state of GPU-2", "state of GPU-3")


def test_answers_that_were_never_fetched_are_not_taken_for_others():
    machine = Machine()
    nvml = machine.nvml()
    nvml.gpus()

    class BrokenOffError(Exception):
        pass

    def broken_off(index):
        raise BrokenOffError

    machine.workers[0].read = broken_off
    with pytest.raises(BrokenOffError):
        nvml.gpus()
    assert len(nvml.gpus()[0]) == 4
    assert nvml.pid() == 1001
