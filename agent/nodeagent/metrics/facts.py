"""What the agent tells about itself besides what it observed of the node."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.host.ports import GpuFault
    from nodeagent.metrics.instruments import OwnFamilies


@dataclass(frozen=True)
class AgentFacts:
    """The agent's own figures; None where there is none yet, and then the family is left out.

    `simulated` is the profile of the simulated machine, "" on a real one. `gpu_faults` are the GPUs that could not be
    read. `unit_failures` counts failures per unit since the start, `units_waiting` names those that wait after one.
    `start_seconds` (Unix time) is when the agent started.
    `cycle_seconds` says by source what the last round of telemetry took, `cycle_errors` counts its failures.
    `owed` counts steps by subject that shall bring back what an interrupted or failed transition took away.
    `instruments` are families that the agent counts itself (`Instruments.families`).
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
    units_waiting: tuple[str, ...] = ()
    gpu_faults: tuple[GpuFault, ...] = ()
    start_seconds: float | None = None
    steps_taken: int | None = None
    telemetry_seconds: float | None = None
    cycle_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    cycle_errors: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    nvml_hangs: int | None = None
    owed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    instruments: OwnFamilies = ()
