"""The kernel's PTX: assembled by NVIDIA's own assembler for the architectures that this agent is for."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from nodeagent.host.cuda_kernel import ENTRY, PTX


def assembler() -> Path:
    """ptxas of nvidia-cuda-nvcc-cu12."""
    found = importlib.util.find_spec("nvidia.cuda_nvcc")
    assert found is not None
    assert found.submodule_search_locations
    return Path(next(iter(found.submodule_search_locations))) / "bin" / "ptxas"


@pytest.mark.parametrize("architecture", ["sm_50", "sm_70", "sm_80", "sm_90", "sm_100", "sm_120"])
def test_the_kernel_is_valid_for_every_architecture(tmp_path: Path, architecture: str) -> None:
    source, made = tmp_path / "kernel.ptx", tmp_path / "kernel.cubin"
    source.write_text(PTX)
    command = [str(assembler()), "--warning-as-error", f"--gpu-name={architecture}", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ENTRY.encode() in made.read_bytes()
