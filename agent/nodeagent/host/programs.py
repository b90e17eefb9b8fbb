"""Other programs, run to their end: never through a shell, never asking anybody, never longer than they may."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def run_program(
    command: Sequence[str], deadline_seconds: float, environment: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """What a program that is given `text` says, and how it ends; None for the environment is our own.

    OSError where it cannot be started, subprocess.TimeoutExpired where it had to be killed at the deadline.
    """
    return subprocess.run(
        command,
        env=None if environment is None else dict(environment),
        input=text,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=deadline_seconds,
        check=False,
    )
