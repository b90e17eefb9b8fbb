"""Reads telemetry in the rhythm of the node file and renders each snapshot once; a scrape only sends its bytes."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from nodeagent import __version__
from nodeagent.errors import HostError
from nodeagent.host.ports import GpuFault, Host
from nodeagent.host.rounds import Rest, Rounds
from nodeagent.metrics.dcgm_computed import P2P_FAMILY
from nodeagent.metrics.facts import AgentFacts
from nodeagent.metrics.instruments import Instruments
from nodeagent.metrics.render import snapshot
from nodeagent.metrics.snapshot import Snapshot
from nodeagent.metrics.tally import Tally
from nodeagent.metrics.view import View
from nodeagent.plan.model import Plan
from nodeagent.spec.schema import Metrics
from nodeagent.state.gpu import GpuSample
from nodeagent.state.health import Health
from nodeagent.state.node import NodeState
from nodeagent.state.proofs import Validation
from nodeagent.state.topology import NvLinks
from nodeagent.supervisor.choices import Choices
from nodeagent.supervisor.health_facts import Reading
from nodeagent.supervisor.network_sampling import NetworkSampler
from nodeagent.supervisor.otlp_push import OtlpPush
from nodeagent.supervisor.pod_watch import PodWatch
from nodeagent.supervisor.silent_gpus import SilentGpus
from nodeagent.supervisor.status import Condition, Status

log = logging.getLogger("nodeagent")
PATIENCE_SECONDS = 1.0  # a transition at work keeps the hardware; this round then keeps the telemetry of the last
FRESH_CYCLES = 3  # older than so many rounds, and /readyz says so
TEXTFILE_MODE = 0o644  # node_exporter runs as a user of its own


class Sampler:
    """A thread of its own, so that a long transition does not stop the metrics; any thread may read `snapshot`.

    `view` is what the snapshot shows; `network` reads its network half, `pods` knows what the kubelet says, `push` gets
    each round.
    """

    def __init__(
        self,
        host: Host,
        hardware: threading.Lock,
        status: Callable[[], Status],
        seconds: float,
        choices: Choices | None = None,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.view: View | None = None
        self.seconds = seconds
        self.network = NetworkSampler(host)
        self.pods: PodWatch | None = None
        self.push: OtlpPush | None = None
        self.on_repartition: Callable[[], None] = lambda: None
        self._host, self._hardware, self._status = host, hardware, status
        self._choices = choices or Choices(Metrics(), host.files)
        self._samples: Sequence[GpuSample] = ()
        self._nvlinks: tuple[NvLinks, ...] = ()
        self._passes_seen = self._passes_timed = 0
        self._trouble = ""
        self.examine: Callable[[Reading], Health] = lambda _reading: Health()
        self.validation: Callable[[], Validation] = Validation
        self._sampled_at: float | None = None
        self._tally = Tally()
        self._silent = SilentGpus()
        self._costs: dict[str, float] = {}
        self._errors: dict[str, int] = dict.fromkeys(("gpus", "textfile"), 0)
        self._instruments = Instruments(__version__)
        about = "telemetry not read, the last snapshot stays"
        self._rounds = Rounds("sampler", self.take, lambda: Rest(self.seconds), about=about)

    def start(self) -> None:
        self._rounds.start()

    def refresh(self, status: Status) -> None:
        """Sample soon: a pass may have ended, and its outcome should show. Of one thread, the loop's."""
        if status.last and status.passes > self._passes_timed:
            self._passes_timed = status.passes
            self._instruments.passes.observe(status.last.duration_seconds)
        self.soon()

    def soon(self) -> None:
        """Do not wait for the next round."""
        self._rounds.wake()

    def pace(self, seconds: float) -> None:
        """Sample in this rhythm from the next round on."""
        self.seconds = seconds
        self._rounds.wake()

    def stop(self) -> None:
        self._rounds.stop(PATIENCE_SECONDS)

    def take(self) -> None:
        """One round: read what can be read without disturbing anybody, render, replace the snapshot.

        HostError when what is not telemetry cannot be read, as while a driver goes away.
        """
        status = self._status()
        if status.last is None and not status.trouble:
            return
        options = self._choices.options()
        with self._measured("gpus"):
            self._sample(status, P2P_FAMILY in (options.families or ()))
        with self._measured("network"):
            seen = self.network.read(_observed(status), status.passes)
        with self._measured("health"):
            health = self.examine(self._reading(status, seen.state))
        now = time.time()
        tallies = self._tally.hear(health.logged_xids, now)
        view = View(
            node=self._silent(seen.state),
            samples=tuple(self._samples),
            agent=self._facts(status),
            now=now,
            options=options,
            tallies=tallies,
            jobs=self._choices.jobs(),
            statistics=seen.statistics,
            pods=self.pods.facts if self.pods else None,
            gid_indexes=seen.gid_indexes,
            nvlinks=self._nvlinks,
            health=health,
            validation=self.validation(),
        )
        with self._measured("render"):
            self.view, self.snapshot = view, snapshot(view, FRESH_CYCLES * self.seconds)
        if self.push:
            self.push.offer(view)
        self._write_textfile(self.snapshot)

    def _others_repartitioned(self) -> bool:
        """Whether a MIG layout changed, and not by a pass of ours that took steps since the last round.

        Asked while the hardware is held, so that a pass has either ended and is in the status, or not begun.
        """
        status = self._status()
        acted = status.passes != self._passes_seen and status.last is not None and status.last.outcome.steps_taken > 0
        self._passes_seen = status.passes
        return not acted and any(sample.mig_changed for sample in self._samples)

    def _sample(self, status: Status, links_too: bool) -> None:
        """GPUs that are gone or hang show as nodeagent_gpu_up 0; a transition at work leaves the last values."""
        if not self._hardware.acquire(timeout=PATIENCE_SECONDS):
            return
        try:
            self._samples = self._host.nvml.samples() if _observed(status).gpus else ()
            self._nvlinks = self._host.nvml.nvlinks() if self._samples and links_too else ()
            self._trouble = ""
            repartitioned = self._others_repartitioned()
        except HostError as error:
            self._samples, self._nvlinks, repartitioned, self._trouble = (), (), False, str(error)
            self._errors["gpus"] += 1
        finally:
            self._hardware.release()
        if repartitioned:
            self.on_repartition()
        if self._samples:
            self._sampled_at = time.time()
            self._tally.add(self._samples, self._sampled_at)
            self._instruments.add_calls(self._samples)

    def _reading(self, status: Status, state: NodeState) -> Reading:
        """For health: what of the GPUs could not be read, and why, besides what could."""
        observed = _observed(status)
        untold = next((item.reason for item in observed.unknown if item.what == "GPUs"), "")
        return Reading(
            state=state,
            samples=self._samples,
            faults=self._host.nvml.faults(),
            driver_trouble=self._trouble or untold,
            plan=status.last.outcome.plan if status.last and status.passes else None,  # not before we could act on it
            observed=observed,
        )

    def _write_textfile(self, taken: Snapshot) -> None:
        path = self._choices.section.textfile
        if not path:
            return
        try:
            self._host.files.replace(path, taken.body.decode().removesuffix("\n") + "\n", TEXTFILE_MODE)
        except HostError as error:
            self._errors["textfile"] += 1
            log.warning("textfile not written: %s", error)

    @contextmanager
    def _measured(self, source: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._costs[source] = seconds = time.monotonic() - started
        self._instruments.rounds.labels(source).observe(seconds)

    def _facts(self, status: Status) -> AgentFacts:
        plan = status.last.outcome.plan if status.last else Plan()
        unknown = (item for item in _observed(status).unknown if item.what.startswith("GPU "))
        return AgentFacts(
            hostname=status.identity.hostname,
            version=__version__,
            simulated=status.identity.simulated,
            converged=status.condition is Condition.CONVERGED,
            blocked=len(plan.blocked),
            owed=Counter(str(step.subject) for step in plan.owed),
            drift_steps=plan.step_count,
            passes=status.passes,
            pass_duration_seconds=status.last.duration_seconds if status.last else None,
            steps_taken=status.last.outcome.steps_taken if status.last else None,
            unit_failures=status.failures_total,
            units_waiting=tuple(status.postponed),
            gpu_faults=tuple(GpuFault(item.what.removeprefix("GPU "), item.reason) for item in unknown),
            start_seconds=status.identity.started_unix_seconds,
            telemetry_seconds=self._sampled_at,
            cycle_seconds=dict(self._costs),
            cycle_errors={
                **self._errors,
                "counters_file": self._choices.errors,
                "network": self.network.errors,
                **({"otlp": self.push.errors} if self.push and self.push.endpoint else {}),
                **({"pods": self.pods.errors} if self.pods and self.pods.facts else {}),
            },
            nvml_hangs=self._host.nvml.hangs(),
            instruments=self._instruments.families(),
        )


def _observed(status: Status) -> NodeState:
    """The node as last observed; an empty one while it could not be."""
    return status.last.outcome.state if status.last else NodeState()
