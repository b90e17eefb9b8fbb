"""Makes trials, a few at a time, and turns what they show into findings."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from nodeagent.errors import BusyError, HostError, UnsupportedError
from nodeagent.host.ports import Cuda
from nodeagent.state.proofs import Finding, Outcome, Proof, Trial, Work
from nodeagent.validation.trials import shown

AT_ONCE = 4
PROOF_OF = {
    Work.VECTOR: Proof.CUDA,
    Work.PEER: Proof.P2P,
    Work.RDMA: Proof.GPUDIRECT,
    Work.GDRCOPY: Proof.GDRCOPY,
    Work.GDS: Proof.GDS,
}


def make(
    cuda: Cuda, wanted: Iterable[Trial | Finding], deadline_seconds: float, at_once: int = AT_ONCE
) -> tuple[Finding, ...]:
    """Findings in the order of what was wanted; those that are findings already stay.

    Trials whose devices meet would slow each other down and still be right.
    """
    everything = list(wanted)
    made = {place: one for place, one in enumerate(everything) if isinstance(one, Finding)}
    waiting = deque((place, one) for place, one in enumerate(everything) if isinstance(one, Trial))

    def work() -> None:
        with suppress(IndexError):
            while True:
                place, trial = waiting.popleft()
                made[place] = attempt(cuda, trial, deadline_seconds)

    # Daemons: an agent that is told to stop does not wait for a GPU that hangs; the child goes with its parent.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(waiting)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tuple(made[place] for place in range(len(everything)))


def attempt(cuda: Cuda, trial: Trial, deadline_seconds: float) -> Finding:
    """One trial. What is full or held by somebody since it was looked at is skipped, and all else is failed."""
    proof, subject = PROOF_OF[trial.work], subject_of(trial)
    try:
        result = cuda.attempt(trial, deadline_seconds)
    except BusyError as error:
        return Finding(proof, subject, Outcome.SKIPPED, _words(error))
    except UnsupportedError as error:
        if trial.work in (Work.GDRCOPY, Work.GDS):  # containers bring the library; the host need not have it
            return Finding(proof, subject, Outcome.SKIPPED, _words(error))
        return Finding(proof, subject, Outcome.FAILED, _words(error))
    except HostError as error:
        return Finding(proof, subject, Outcome.FAILED, _words(error))
    return Finding(proof, subject, Outcome.PASSED, shown(trial, result), result.figures, result.simulated)


def subject_of(trial: Trial) -> str:
    if trial.work is Work.RDMA:
        return f"{trial.uuids[0]} and {trial.device} port {trial.port}"
    return " to ".join(trial.uuids) or "node"


def _words(error: HostError) -> str:
    return f"{error.reason}; {error.advice}" if error.advice else error.reason


def worst(findings: Sequence[Finding]) -> Outcome:
    """What failed counts before what was skipped, and that before what passed; absent where there is nothing else."""
    order = (Outcome.FAILED, Outcome.SKIPPED, Outcome.PASSED)
    there = {finding.outcome for finding in findings}
    return next((outcome for outcome in order if outcome in there), Outcome.ABSENT)
