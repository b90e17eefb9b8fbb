"""Makes trials, a few at a time, and turns what they show into findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

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


def make(cuda: Cuda, wanted: Iterable[Trial | Finding], deadline_seconds: float) -> tuple[Finding, ...]:
    """Findings in the order of what was wanted; those that are findings already stay.

    Trials whose devices meet would slow each other down and still be right.
    """
    everything = list(wanted)
    trials = [one for one in everything if isinstance(one, Trial)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = iter(pool.map(lambda trial: attempt(cuda, trial, deadline_seconds), trials))
        return tuple(next(made) if isinstance(one, Trial) else one for one in everything)


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
    return " to ".join(trial.uuids) or "node"


def _words(error: HostError) -> str:
    return f"{error.reason}; {error.advice}" if error.advice else error.reason


def worst(findings: Sequence[Finding]) -> Outcome:
    """What failed counts before what was skipped, and that before what passed; absent where there is nothing else."""
    order = (Outcome.FAILED, Outcome.SKIPPED, Outcome.PASSED)
    there = {finding.outcome for finding in findings}
    return next((outcome for outcome in order if outcome in there), Outcome.ABSENT)
