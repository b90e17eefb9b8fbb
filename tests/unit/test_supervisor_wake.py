"""The wake pipe: threads, event sources, signals in a process of its own, and the node file's fingerprint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.supervisor.wake import Bell, Wake, Waker, fingerprint

WAITER = """
from nodeagent.supervisor.wake import Wake, Waker
waker = Waker()
waker.handle_signals()
print("ready", flush=True)
while True:
    for reason in sorted(waker.wait(30)):
        print(reason.name, flush=True)
"""


class Pipe:
    """An event source whose events are bytes in a pipe; `says` is what draining it finds."""

    def __init__(self, says: tuple[str, ...]) -> None:
        self.reader, self.writer = os.pipe()
        self.says = says

    @property
    def descriptor(self) -> int | None:
        return self.reader

    def drain(self) -> tuple[str, ...]:
        os.read(self.reader, 100)
        return self.says

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def waker() -> Iterator[Waker]:
    found = Waker()
    yield found
    found.close()


def test_the_time_runs_out_without_a_reason(waker: Waker) -> None:
    assert waker.wait(0) == frozenset()
    assert waker.wait(-5) == frozenset()
    assert waker.wait(0.01) == frozenset()


def test_each_reason_is_delivered_once(waker: Waker) -> None:
    waker.wake(Wake.ASKED)
    waker.wake(Wake.ASKED)
    waker.wake(Wake.STOP)
    assert waker.wait(60) == {Wake.ASKED, Wake.STOP}
    assert waker.wait(0) == frozenset()


def test_a_full_pipe_loses_no_reason(waker: Waker) -> None:
    for _ in range(70_000):
        waker.wake(Wake.UDEV)
    waker.wake(Wake.STOP)
    assert waker.wait(0) == {Wake.UDEV, Wake.STOP}


def test_threads_lose_nothing_while_the_loop_waits(waker: Waker) -> None:
    reasons = (Wake.ASKED, Wake.RELOAD, Wake.UDEV, Wake.FILE)
    threads = [threading.Thread(target=waker.wake, args=(reason,)) for reason in reasons]
    for thread in threads:
        thread.start()
    seen: set[Wake] = set()
    while seen != set(reasons):
        seen |= waker.wait(60)
    for thread in threads:
        thread.join()


def test_an_event_source_wakes_as_udev_only_if_it_has_events() -> None:
    for says, expected in ((("add module nvidia",), {Wake.UDEV}), ((), set())):
        source = Pipe(says)
        waker = Waker(source)
        os.write(source.writer, b"event")
        assert waker.wait(60) == expected
        waker.close()
        source.close()


def test_a_bell_is_heard_once_and_apart_from_what_can_be_read() -> None:
    before = len(os.listdir("/proc/self/fd"))
    bell, pipe = Bell(), Pipe(())
    assert bell.wait((pipe.reader,), 0) == frozenset()
    threading.Thread(target=bell.ring).start()
    assert bell.wait((pipe.reader,), 60) == frozenset()
    assert bell.wait((pipe.reader,), 0) == frozenset()
    os.write(pipe.writer, b"event")
    bell.ring()
    assert bell.wait((pipe.reader,), 60) == {pipe.reader}
    bell.close()
    pipe.close()
    assert len(os.listdir("/proc/self/fd")) == before


def waiter() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WAITER], stdout=subprocess.PIPE, text=True)
    assert read(process) == "ready"
    return process


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_signals_of_a_real_process_wake_it_and_a_second_stop_ends_it_at_once() -> None:
    with waiter() as process:
        process.send_signal(signal.SIGHUP)
        assert read(process) == "RELOAD"
        process.send_signal(signal.SIGHUP)
        assert read(process) == "RELOAD"
        process.send_signal(signal.SIGTERM)
        assert read(process) == "STOP"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


def test_a_file_changes_its_fingerprint_by_content_by_replacement_and_by_going_away(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    seen = [fingerprint([str(file)])]
    file.write_text("version: 1\n")
    seen.append(fingerprint([str(file)]))
    file.write_text("version: 1\n# longer\n")
    seen.append(fingerprint([str(file)]))
    (tmp_path / "new").write_text("version: 1\n# longer\n")
    (tmp_path / "new").rename(file)
    seen.append(fingerprint([str(file)]))
    assert len(set(seen)) == 4
    assert fingerprint([str(file)]) == seen[-1]


def test_a_swapped_link_above_the_file_changes_its_fingerprint(tmp_path: Path) -> None:
    """As kubelet does it when a ConfigMap changes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "node.yaml").write_text("version: 1\n")
    (tmp_path / "data").symlink_to("one")
    before = fingerprint([str(tmp_path / "data" / "node.yaml")])
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    assert fingerprint([str(tmp_path / "data" / "node.yaml")]) != before
