"""The agent on a machine with an NVIDIA GPU and its driver: `tests/run tests/gpu/test_real_gpu.py` changes nothing.

What nvidia-smi says is what counts; computing is proved on every GPU that is free.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import run_command
from smi_contract import CLAUSES, Pair, computing

# A program of the user's that computes: a context by the driver's own library is enough to be listed.
COMPUTES = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def pair() -> Pair:
    program = shutil.which("nvidia-smi")
    assert program, "there is no nvidia-smi: these tests are for machines with an NVIDIA GPU and its driver"
    return Pair(program, dict(os.environ))


@pytest.mark.parametrize("clause", CLAUSES)
def test_nvidia_smi_and_the_agent_agree(pair: Pair, clause: str) -> None:
    CLAUSES[clause](pair)


@pytest.fixture
def program() -> Iterator[int]:
    """PID of somebody who computes."""
    with subprocess.Popen([sys.executable, "-c", COMPUTES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        yield running.pid
        running.kill()


def test_who_computes_is_named_by_both(pair: Pair, program: int) -> None:
    assert str(program) in {row["pid"] for row in pair.query("compute-apps", "pid")}
    computing(pair)


def test_every_free_gpu_computes_and_the_proof_says_what_was_tried() -> None:
    done = run_command("validate", "cuda", "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def test_a_plan_from_the_adopted_file_is_empty(tmp_path: Path) -> None:
    done = run_command("config", "adopt")
    assert done.returncode == 0, done.stdout + done.stderr
    file = tmp_path / "node.yaml"
    file.write_text(done.stdout)
    check = run_command("check", "--file", str(file))
    assert check.returncode == 0, check.stdout + check.stderr


def test_health_finds_nothing_failed_and_says_what_it_could_not_look_at() -> None:
    done = run_command("health", "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_series_can_be_read_by_prometheus() -> None:
    done = run_command("metrics", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
