"""Proofs in the background: those that need no GPU for themselves in every round, the others as the node file says.

A thread of its own. It looks at the node only while no step is taken, and tries GPUs only on a node that is as its file
says; a step that needs a GPU meanwhile is refused by the driver and tried again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nodeagent.errors import HostError
from nodeagent.host.rounds import Complaint, Rest, Rounds
from nodeagent.plan.executor import Report
from nodeagent.plan.journal import Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.resources.module_steps import UnloadModule
from nodeagent.spec.containers import Cdi, Component
from nodeagent.spec.schema import NodeSpec
from nodeagent.spec.validation import GpuTrials
from nodeagent.state.proofs import Finding, Outcome, Proof, Trial, Validation
from nodeagent.supervisor.status import Condition, Status
from nodeagent.supervisor.validation_facts import Round, asks_for_rdma, concluded, gather, wanted
from nodeagent.supervisor.validation_results import keep, kept
from nodeagent.validation.facts import Facts
from nodeagent.validation.ready_files import bring, texts, withdraw
from nodeagent.validation.running import make

log = logging.getLogger("nodeagent")
QUIET = frozenset(Proof) - {Proof.CUDA, Proof.P2P, Proof.RDMA, Proof.GPUDIRECT}
ON_GPUS = frozenset({Proof.CUDA, Proof.P2P})
DRIVER = ("nvidia", "nvidia_uvm")
ONE_AT_A_TIME = 1  # the service's limit of memory holds for the trials as well
PATIENCE_SECONDS = 1.0
REST_SECONDS = 5.0  # between two rounds, however often they are asked for


@dataclass
class ValidationWatch:
    """`hardware` is held while the node is looked at."""

    observer: Observer
    spec: NodeSpec
    status: Callable[[], Status]
    hardware: threading.Lock

    def __post_init__(self) -> None:
        self._passed: dict[tuple[str, ...], Finding] = {}
        self._driver = ""
        self._files_complaint = Complaint("validation")
        self._rounds = Rounds("validation", self.look, self._rest, about="validation")

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop(PATIENCE_SECONDS)

    def take_over(self, spec: NodeSpec) -> None:
        """The node file was read again. Ready files that are no longer our job are taken back."""
        had, self.spec = self._writes_files, spec
        if had and not self._writes_files:
            try:
                withdraw(self.observer.host.files)
            except HostError as error:
                self._files_complaint.say(f"ready files not removed: {error}")
        self.ask()

    @property
    def _writes_files(self) -> bool:
        return self.spec.validation is not None and self.spec.validation.ready_files is not Component.OFF

    def ask(self) -> None:
        """Something may have changed; returns at once."""
        self._rounds.wake()

    def _rest(self) -> Rest:
        return Rest(self.spec.validation.interval_seconds if self.spec.validation else None, REST_SECONDS)

    def look(self) -> None:
        """One round; nothing without section `validation`, or while steps are taken. HostError."""
        section, status = self.spec.validation, self.status()
        if section is None or status.last is None or not self.hardware.acquire(timeout=PATIENCE_SECONDS):
            return
        try:
            facts = gather(self.observer, self.spec.cdi or Cdi(), wants_rdma=asks_for_rdma(self.spec))
        finally:
            self.hardware.release()
        self._forget_other_drivers(facts)
        tries = section.gpu_trials is not GpuTrials.NEVER and status.condition is Condition.CONVERGED
        choice = Round(QUIET | ON_GPUS if tries else QUIET, section.deadline_seconds, False, self.spec.cdi or Cdi())
        chosen = self._chosen(facts, choice, section.gpu_trials)
        made = make(self.observer.host.cuda, chosen, choice.deadline_seconds, ONE_AT_A_TIME)
        self._remember(made)
        found = concluded(made)
        keep(self.observer.host.files, found)
        if self._writes_files:  # asked after the round: it may have been given away meanwhile
            self._bring(found, facts)

    def _chosen(self, facts: Facts, choice: Round, gpu_trials: GpuTrials) -> Iterator[Trial | Finding]:
        """With what has passed since the start in place of its trial, unless it is to be tried always."""
        for one in wanted(facts, choice):
            if isinstance(one, Trial) and gpu_trials is GpuTrials.AT_START and one.uuids:
                yield self._passed.get(one.uuids, one)
            elif isinstance(one, Finding) and one.proof in ON_GPUS and one.outcome is Outcome.SKIPPED:
                yield self._passed.get(tuple(one.subject.split(" to ")), one)
            else:
                yield one

    def _remember(self, made: tuple[Finding, ...]) -> None:
        for one in made:
            if one.proof in ON_GPUS and one.outcome is Outcome.PASSED:
                self._passed[tuple(one.subject.split(" to "))] = one

    def _forget_other_drivers(self, facts: Facts) -> None:
        """What another driver could do proves nothing of this one."""
        driver = facts.state.driver.version if facts.state.driver else ""
        if driver != self._driver:
            self._passed.clear()
        self._driver = driver

    def _bring(self, found: Validation, facts: Facts) -> None:
        foreign = bring(self.observer.host.files, texts(found, facts.state))
        names = ", ".join(foreign)
        self._files_complaint.say(f"ready files of another tool are left alone: {names}" if names else "")

    def latest(self) -> Validation:
        """What was found since this boot, by a command too."""
        return kept(self.observer.host.files)

    def unloading(self) -> None:
        """The driver is about to go: nobody may start because of a file that stands for it."""
        if self._writes_files:
            self._passed.clear()
            withdraw(self.observer.host.files)


@dataclass(frozen=True)
class Withdrawing:
    """A report that first lets the ready files go where a step takes the driver away."""

    report: Report
    watch: ValidationWatch

    def started(self, phase: Phase, step: Step) -> None:
        if isinstance(step, UnloadModule) and step.subject.name in DRIVER:
            try:
                self.watch.unloading()
            except HostError as error:
                log.warning("ready files not removed: %s", error)
        self.report.started(phase, step)

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None:
        self.report.finished(phase, step, error)

    def skipped(self, step: Step, reason: str) -> None:
        self.report.skipped(step, reason)
