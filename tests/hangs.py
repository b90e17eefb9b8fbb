"""Hangs of NVML under a running agent: which functions it calls, each made to hang, and what stays alive meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent_process import Agent, agent_on, workers_of
from nodeagent.host.control_client import ask
from nodeagent.simulation.machine_library import library_path
from nodeagent.simulation.node import SimulatedNode, open_node

PROFILE = "dgx-h100"
WATCHDOG_SECONDS = 3.0
DEADLINE_SECONDS = 0.25
HANG_SECONDS = 600
PATIENCE_SECONDS = 120.0
FILE = f"""\
version: 1
modules: {{nvidia: {{modeset: false}}}}
mig: [{{gpus: [0, 1], mode: enabled, devices: {{3g.40gb: 1}}}}]
health: {{damping: {{hold_seconds: 0}}, ignore: [clock, disk]}}
loop: {{interval_seconds: 3600, sample_seconds: 1, nvml_deadline_seconds: {DEADLINE_SECONDS}}}
"""
# Functions that are not about a GPU; when one of them hangs, no GPU alone can be blamed.
OF_THE_MACHINE = (
    "nvmlInit",
    "nvmlDeviceGetCount",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion",
    "nvmlSystemGetNVMLVersion",
    "nvmlEventSetCreate",
    "nvmlEventSetWait",
    "nvmlGpmSampleAlloc",
)
# These cannot hang in the simulation; the agent calls the first three only to let go, with a deadline like any other.
CANNOT_HANG = ("nvmlShutdown", "nvmlEventSetFree", "nvmlGpmSampleFree", "nvmlDeviceGetFanSpeed")
# The simulated library answers one by the other.
STANDS_FOR = {"nvmlDeviceGetTemperatureV": "nvmlDeviceGetTemperature", "nvmlInitWithFlags": "nvmlInit"}
OF_MIG = ("Instance", "MigDevice", "GpmMigSample")
LIST = """
import sys
import pynvml
from nodeagent.host.nvml import InProcessNvml
nvml = InProcessNvml(sys.argv[1])
nvml.gpus()
told = [name for _ in range(2) for sample in nvml.samples() for name in sample.calls]
nvml.release()
print(*told, *(name for name, found in pynvml._nvmlGetFunctionPointer_cache.items() if found))
"""
DIVIDED, WHOLE = (0, 1), (2, 3, 4, 5, 6)
Problem = tuple[str, str, str]


def called(node: SimulatedNode) -> frozenset[str]:
    """Every NVML function that reading this node calls, without its version; pynvml and samples tell of theirs."""
    found = subprocess.run(
        [sys.executable, "-c", LIST, str(library_path())],
        env={**dict(node.machine.environment), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    names = (name.partition("_v")[0] for name in found.stdout.split())
    return frozenset(STANDS_FOR.get(name, name) for name in names if name not in CANNOT_HANG)


def rounds(functions: Iterable[str]) -> Iterator[dict[int, str]]:
    """Functions that are about a GPU, each once, spread over the GPUs: what MIG alone needs on those that have it."""
    told = {name for name in functions if name not in OF_THE_MACHINE}
    divided = iter(sorted(name for name in told if any(part in name for part in OF_MIG)))
    whole = iter(sorted(name for name in told if not any(part in name for part in OF_MIG)))
    while found := dict(zip(DIVIDED, divided, strict=False)) | dict(
        zip(WHOLE, islice(whole, len(WHOLE)), strict=False)
    ):
        yield found


@dataclass
class Ward:
    """An agent whose NVML is made to hang; the last GPU is always left well."""

    agent: Agent
    node: SimulatedNode

    def problems(self) -> set[Problem]:
        """What is wrong, as (`gpu 2` or the kind of subject, check, verdict)."""
        names = {gpu.uuid: f"gpu {index}" for index, gpu in enumerate(self.node.machine.gpus)}
        found = ask(str(self.agent.root), "GET", "/v1/health")["findings"]
        return {
            (names.get(one["subject"].get("name", ""), one["subject"]["kind"]), one["check"], one["verdict"])
            for one in found
            if one["verdict"] != "ok"
        }

    def hang(self, functions: dict[int, str]) -> None:
        """Functions by GPU; -1 stands for calls about none. A new worker calls also what is called once in its life."""
        for index, function in functions.items():
            uuid = None if index < 0 else self.node.machine.gpus[index].uuid
            self.node.machine.hang(uuid, function, HANG_SECONDS)
        for pid in workers_of(self.agent.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.agent.ask_for("reconcile")

    def heal(self) -> None:
        self.node.machine.clear_faults()
        self.wait_until(self._well)

    def _well(self, found: set[Problem]) -> bool:
        """Whether nothing is wrong; what a pass could not read needs another pass."""
        if found:
            self.agent.ask_for("reconcile")
            time.sleep(0.2)
        return not found

    def wait_until(self, wanted: Callable[[set[Problem]], object]) -> set[Problem]:
        """The first problems that are as wanted."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not wanted(found := self.problems()):
            assert time.monotonic() < until, f"{sorted(found)}\n{self.agent.log.read_text()[-2000:]}"
            time.sleep(0.05)
        return found


@contextmanager
def ward_in(directory: Path) -> Iterator[Ward]:
    with agent_on(directory, FILE, profile=PROFILE, watchdog_seconds=WATCHDOG_SECONDS) as agent:
        agent.hears("READY=1")
        agent.wait_converged()
        node = open_node(PROFILE, str(agent.root))
        try:
            ward = Ward(agent, node)
            ward.wait_until(lambda found: not found)
            yield ward
        finally:
            node.machine.close()
