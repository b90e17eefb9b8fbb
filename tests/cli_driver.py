"""Runs verbs of the command in this process on one simulated node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_process import PROFILE
from nodeagent.cli import main


@dataclass
class Cli:
    """Runs verbs in this process on one simulated node."""

    root: Path
    file: Path
    capture: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *words: str, node: bool = True, file: bool = False) -> int:
        """The exit code of `nodeagent WORDS` on the node; what it said is in `out` and `err`."""
        place = ("--simulate", PROFILE, "--simulate-dir", str(self.root)) if node else ()
        try:
            code = main([*words, *place, *(("--file", str(self.file)) if file else ())])
        except SystemExit as ended:  # argparse ends by itself
            code = ended.code if isinstance(ended.code, int) else 1
        self.out, self.err = self.capture.readouterr()
        return code
