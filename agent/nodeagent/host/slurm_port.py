"""The port to the batch system."""

from __future__ import annotations

from typing import Protocol


class Slurm(Protocol):
    """The batch system's word on whether the node gets jobs. GoneError without scontrol or for an unknown node,
    DeadlineError when it does not answer, DeniedError, HostError.
    """

    def drain(self, node: str, reason: str) -> bool:
        """Drain with our own reason, or change ours; False where somebody else's drain is in force and stays."""

    def lift(self, node: str) -> bool:
        """Take our own drain away; False where there is none."""
