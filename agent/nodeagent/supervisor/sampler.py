"""Reads telemetry in the rhythm of the node file and renders each snapshot once; a scrape only sends its bytes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil

from nodeagent import __version__
from nodeagent.errors import HostError
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.host.ports import GpuFault, Host
from nodeagent.metrics.facts import AgentFacts
from nodeagent.metrics.render import render
from nodeagent.metrics.snapshot import Snapshot
from nodeagent.plan.model import Plan
from nodeagent.state.gpu import GpuSample
from nodeagent.state.node import NodeState
from nodeagent.supervisor.status import Condition, Status

log = logging.getLogger("nodeagent")
PATIENCE_SECONDS = 1.0  # a transition at work keeps the hardware; this round then keeps the telemetry of the last


class Sampler:
    """A thread of its own, so that a long transition does not stop the metrics; any thread may read `snapshot`."""

    def __init__(self, host: Host, hardware: threading.Lock, status: Callable[[], Status], seconds: float) -> None:
        self.snapshot: Snapshot | None = None
        self.seconds = seconds
        self._host, self._hardware, self._status = host, hardware, status
        self._samples: Sequence[GpuSample] = ()
        self._process = psutil.Process()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def refresh(self, _status: Status) -> None:
        """Sample soon: a pass has ended and its outcome should show."""
        self._wake.set()

    def pace(self, seconds: float) -> None:
        """Sample in this rhythm from the next round on."""
        self.seconds = seconds
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.take()
            except HostError as error:
                log.warning("telemetry not read, the last snapshot stays: %s", error)
            self._wake.wait(self.seconds)

    def take(self) -> None:
        """One round: read what can be read without disturbing anybody, render, replace the snapshot.

        HostError when what is not telemetry cannot be read, as while a driver goes away.
        """
        status = self._status()
        if status.last is None and not status.trouble:
            return
        if self._hardware.acquire(timeout=PATIENCE_SECONDS):
            try:
                self._samples = self._host.nvml.samples() if _observed(status).gpus else ()
            except HostError:
                self._samples = ()  # gone or hanging: the GPU families then say so by nodeagent_gpu_up
            finally:
                self._hardware.release()
        now = time.time()
        self.snapshot = Snapshot(now, self._render(status, now))

    def _render(self, status: Status, now: float) -> bytes:
        files = self._host.files
        state = replace(_observed(status), rdma=read_rdma(files), netdevs=read_netdevs(files, {}))
        return render(state, self._samples, self._facts(status), now)

    def _facts(self, status: Status) -> AgentFacts:
        plan = status.last.outcome.plan if status.last else Plan()
        unknown = (item for item in _observed(status).unknown if item.what.startswith("GPU "))
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info()
        return AgentFacts(
            hostname=status.identity.hostname,
            version=__version__,
            simulated=status.identity.simulated,
            converged=status.condition is Condition.CONVERGED,
            blocked=len(plan.blocked),
            drift_steps=plan.step_count,
            passes=status.passes,
            pass_duration_seconds=status.last.duration_seconds if status.last else None,
            unit_failures=status.failures_total,
            gpu_faults=tuple(GpuFault(item.what.removeprefix("GPU "), item.reason) for item in unknown),
            cpu_seconds=times.user + times.system,
            resident_bytes=memory.rss,
            start_seconds=status.identity.started_unix_seconds,
        )


def _observed(status: Status) -> NodeState:
    """The node as last observed; an empty one while it could not be."""
    return status.last.outcome.state if status.last else NodeState()
