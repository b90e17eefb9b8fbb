"""What the agent tells about itself besides what it observed of the node."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.host.ports import GpuFault


@dataclass(frozen=True)
class AgentFacts:
    """The agent's own figures; None where there is none yet, and then the family is left out.

    `simulated` is the profile of the simulated machine, "" on a real one. `gpu_faults` are the GPUs that could not be
    read. `unit_failures` counts failures per unit since the start. `cpu_seconds`, `resident_bytes` and `start_seconds`
    (Unix time) are those of the agent's main process.
    """

    hostname: str
    version: str
    simulated: str = ""
    converged: bool | None = None
    blocked: int = 0
    drift_steps: int = 0
    passes: int = 0
    pass_duration_seconds: float | None = None
    unit_failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    gpu_faults: tuple[GpuFault, ...] = ()
    cpu_seconds: float | None = None
    resident_bytes: int | None = None
    start_seconds: float | None = None
