"""The real worker process: its environment, its signals, its end. No NVML library is needed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.errors import GoneError
from nodeagent.host.nvml_process import Launch, WorkerLostError

ABSENT = Launch("/nonexistent/libnvidia-ml.so.1", {"NODEAGENT_TEST": "given"})


@pytest.fixture
def worker():
    started = ABSENT()
    yield started
    started.end()


def answers(worker) -> bool:
    with pytest.raises(GoneError, match=r"^load /nonexistent/libnvidia-ml\.so\.1: .*; give the path"):
        worker.ask("open", (), 30)
    return True


def test_an_error_comes_back_as_the_error_it_was(worker):
    assert answers(worker)


def test_the_worker_does_not_speak_to_systemd_in_our_name():
    os.environ["NOTIFY_SOCKET"] = "@nodeagent-test"
    try:
        worker = ABSENT()
    finally:
        del os.environ["NOTIFY_SOCKET"]
    answers(worker)
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    worker.end()
    assert b"NODEAGENT_TEST=given" in environment
    assert not [entry for entry in environment if entry.startswith(b"NOTIFY_SOCKET=")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_take_the_worker_from_its_owner(worker, number):
    answers(worker)
    os.kill(worker.pid, number)
    assert answers(worker)


def test_a_killed_worker_is_reported_with_its_signal(worker):
    answers(worker)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="ended by SIGKILL"):
        worker.ask("open", (), 30)
    assert not worker.alive()


def test_a_worker_that_does_not_answer_is_a_timeout_and_can_be_ended(worker):
    answers(worker)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        worker.ask("open", (), 0.1)
    assert worker.end()


OWNER = """
import sys, time
from nodeagent.errors import GoneError
from nodeagent.host.nvml_process import Launch
worker = Launch("/nonexistent/lib.so")()
try:
    worker.ask("open", (), 30)
except GoneError:
    print(worker.pid, flush=True)
time.sleep(600)
"""


def test_the_worker_ends_with_its_owner():
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        worker = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()
        ended, _, _ = select.select([worker], [], [], 30)
        os.close(worker)
        assert ended
