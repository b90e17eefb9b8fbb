"""MIG on a real GPU 0, which has to be idle and is put back as it was: `tests/run tests/gpu/test_real_mig.py`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent_process import run_command
from smi_contract import Pair, layouts


def computes() -> None:
    """Every MIG device, and the GPUs without."""
    done = run_command("validate", "cuda")
    assert done.returncode == 0, done.stdout + done.stderr


def test_layouts_come_and_go_as_nvidia_smi_sees_them(tmp_path: Path) -> None:
    program = shutil.which("nvidia-smi")
    assert program, "there is no nvidia-smi: this test is for machines with an NVIDIA GPU that can do MIG"
    layouts(Pair(program, dict(os.environ)), tmp_path / "layout.json", computes)
