"""The reader of the kernel's log in the background: told of lines that mean something, stopped while it waits."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from nodeagent.host.paths import DEV_KMSG
from nodeagent.supervisor.log_tail import REST_SECONDS, LogTail

XID = "NVRM: Xid (PCI:0000:07:00): 79, pid=1, name=python, GPU has fallen off the bus."


def test_a_line_that_means_something_is_told_of_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / DEV_KMSG.strip("/")).parent.mkdir()
    file = tmp_path / DEV_KMSG.strip("/")
    file.write_text("6,1,1000000,-;nothing of note\n")
    before = len(os.listdir("/proc/self/fd"))
    tail, told = LogTail(str(tmp_path), None), threading.Event()
    tail.on_line = told.set
    tail.start()
    with file.open("a") as log:
        log.write(f"3,2,2000000,-;{XID}\n")
    assert told.wait(60)
    batch, trouble = tail.take()
    assert (batch.records[-1].text, trouble) == (XID, "")
    tail.stop()
    assert len(os.listdir("/proc/self/fd")) == before
    assert "kernel log" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("started", [True, False])
def test_what_waits_for_the_kernel_is_woken_to_stop(started: bool) -> None:
    """The log of this machine, of which the thread would wait for a minute."""
    tail = LogTail("/", None)
    if started:
        tail.start()
    before = {thread.name for thread in threading.enumerate()}
    tail.take()
    time.sleep(2 * REST_SECONDS)  # by then it waits for the kernel
    tail.stop()
    assert ("kernel log" in before) == started
    assert "kernel log" not in {thread.name for thread in threading.enumerate()}
