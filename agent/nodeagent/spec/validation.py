"""Section `validation` of the node file: what is proved in the background, and who is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec.containers import Component
from nodeagent.spec.keys import key


class GpuTrials(StrEnum):
    """at-start: once after the agent has started, on GPUs that are free. always: in every round. never: only when
    `nodeagent validate` is run.
    """

    AT_START = "at-start"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Validation:
    """Proofs in the background, shown as metrics; `validation: {}` takes every default."""

    interval_seconds: float = key(
        "Time between two rounds of the proofs that need no GPU.", default=300.0, minimum=1, maximum=86400
    )
    gpu_trials: GpuTrials = key(
        "When vector additions and copies between GPUs are made; a GPU in use is never touched. A trial needs memory "
        "of the host: give the service more than its MemoryMax of 256 MiB.",
        default=GpuTrials.NEVER,
    )
    deadline_seconds: float = key(
        "How long one trial on a GPU may take before it has failed.", default=60.0, minimum=0.5, maximum=3600
    )
    ready_files: Component = key(
        "Write the ready files of the GPU operator's validator to /run/nvidia/validations; auto: unless the operator "
        "runs its validator here (seen with `labels.follow`).",
        default=Component.AUTO,
    )
