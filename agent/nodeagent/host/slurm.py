"""Slurm's opinion of this node through scontrol: drained with our own reason, and lifted only where the reason is ours.

Sources: SchedMD/slurm doc/man/man1/scontrol.1 (update node: State=DRAIN needs a Reason; State=UNDRAIN takes the drain
away and leaves what else is said of the node, where RESUME would bring a node back that is down for another cause) and
src/api/node_info.c (the text of `show node`: State with flags behind `+`, Reason with `[user@time]` behind it).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.programs import run_program
from nodeagent.state.repair import OUR_DRAIN

_STATE = re.compile(r"^\s*(?:.*\s)?State=(\S+)", re.MULTILINE)
_REASON = re.compile(r"^\s*Reason=(.*?)(?: \[[^\s\[\]]+@[^\s\[\]]+\])?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class SlurmNode:
    """Whether Slurm gives it no new jobs, and the reason that somebody gave for it."""

    is_drained: bool
    reason: str

    @property
    def is_ours(self) -> bool:
        return self.is_drained and self.reason.startswith(OUR_DRAIN)


class Scontrol:
    """`ports.Slurm`. `program` is scontrol; `environment` is added to the program's."""

    def __init__(
        self,
        program: str = "scontrol",
        deadline_seconds: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._program, self._deadline_seconds = program, deadline_seconds
        self._environment = dict(environment or {})

    def drain(self, node: str, reason: str) -> bool:
        """As the port says."""
        found = self.node(node)
        if found.is_drained and not found.is_ours:
            return False
        self._run("drain", node, "update", f"nodename={node}", "state=drain", f"reason={OUR_DRAIN} {reason}")
        return True

    def lift(self, node: str) -> bool:
        """As the port says."""
        if not self.node(node).is_ours:
            return False
        self._run("lift the drain of", node, "update", f"nodename={node}", "state=undrain")
        return True

    def node(self, node: str) -> SlurmNode:
        """What Slurm says of the node. Errors as of the port."""
        text = self._run("look at", node, "show", "node", node)
        state = _STATE.search(text)
        if state is None:
            raise HostError("look at", f"slurm node {node}", "scontrol tells no state", "see `scontrol show node`")
        reason = _REASON.search(text)
        return SlurmNode("DRAIN" in re.split(r"\W+", state[1]), reason[1] if reason else "")

    def _run(self, operation: str, node: str, *arguments: str) -> str:
        subject = f"slurm node {node}"
        try:
            done = run_program(
                [self._program, *arguments],
                self._deadline_seconds,
                os.environ | self._environment | {"LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            reason = f"scontrol did not end within {self._deadline_seconds:g} s"
            raise DeadlineError(operation, subject, reason, "see whether slurmctld answers") from error
        except OSError as error:
            advice = "install slurm's client, or set remediation.quarantine.slurm to false"
            raise GoneError(operation, subject, "scontrol cannot be run", advice) from error
        if done.returncode:
            raise _refusal(operation, subject, done.stderr or done.stdout)
        return done.stdout


def _refusal(operation: str, subject: str, text: str) -> HostError:
    words = text.strip().splitlines()
    said = words[0].removeprefix("scontrol: error: ").lower().rstrip(".") if words else "no reason given"
    if "permission" in said or "access" in said:
        return DeniedError(operation, subject, f"scontrol: {said}", "run as root or slurm's own user")
    if "not found" in said or "invalid node name" in said:
        return GoneError(operation, subject, f"scontrol: {said}", "set remediation.quarantine.slurm_node")
    return HostError(operation, subject, f"scontrol: {said}")
