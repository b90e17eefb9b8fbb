"""The history on a real disk: durable, bounded, told once, and honest about damage."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nodeagent.errors import GoneError, HostError
from nodeagent.host.history import Entry, History, Limits, Query, read_history
from nodeagent.host.kernel_follow import Cursor
from nodeagent.host.paths import HISTORY
from nodeagent.state.health import NODE, EventKind, Finding, HealthEvent, Recovery, Subject, SubjectKind, Verdict

GPU = Subject(SubjectKind.GPU, "GPU-1", "0000:3b:00.0")


def event(text: str, at: float = 0.0, kind: EventKind = EventKind.XID, identity: str = "") -> HealthEvent:
    return HealthEvent(at or time.time(), kind, GPU, text, identity=identity)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    found = History(str(tmp_path))
    yield found
    found.close()


def texts(found: tuple[HealthEvent, ...]) -> list[str]:
    return [one.text for one in found]


def test_an_event_comes_back_as_it_was(history: History) -> None:
    told = HealthEvent(
        time=time.time(),
        kind=EventKind.XID,
        subject=Subject(SubjectKind.MIG, "MIG-1", "0000:3b:00.0", "GPU-1"),
        text='a "text" with ünicode\n',
        check="xid",
        verdict=Verdict.FAILED,
        code=79,
        recovery=Recovery.REBOOT,
        data=(("pid", "7"),),
        identity="boot/7",
    )
    assert history.record(Entry((told,))) == 1
    (found,) = history.select(Query())
    assert found.number == 1
    assert HealthEvent(**{**vars(found), "number": 0}) == told


def test_what_is_told_twice_is_kept_once(history: History) -> None:
    assert history.record(Entry((event("a", identity="boot/1"), event("b", identity="boot/1")))) == 1
    assert history.record(Entry((event("a", identity="boot/1"), event("c")))) == 1
    assert texts(history.select(Query())) == ["a", "c"]


def test_selections(history: History) -> None:
    now = time.time()
    history.record(Entry((event("old", now - 100), event("new", now), event("verdict", now, EventKind.VERDICT))))
    assert texts(history.select(Query(since=now - 50))) == ["new", "verdict"]
    assert texts(history.select(Query(kinds=(EventKind.VERDICT,)))) == ["verdict"]
    assert texts(history.select(Query(after=1))) == ["new", "verdict"]
    assert texts(history.select(Query(limit=1))) == ["verdict"]
    assert len(history.select(Query(subject="GPU-1"))) == 3
    assert len(history.select(Query(subject="0000:3b:00.0"))) == 3
    assert history.select(Query(subject="GPU-2")) == ()


def test_memory_is_of_the_last_run(tmp_path: Path, history: History) -> None:
    assert history.memory().cursor is None
    finding = Finding(GPU, "ecc", Verdict.WARNING, since=5.0)
    history.record(Entry(findings=(finding,), cursor=Cursor("boot", 9), learned={"gpus": "8"}))
    history.record(Entry((event("later"),)))
    again = History(str(tmp_path))
    memory = again.memory()
    assert memory.cursor == Cursor("boot", 9)
    assert memory.since == {finding.key: (Verdict.WARNING, 5.0)}
    assert memory.learned == {"gpus": "8"}
    again.record(Entry(findings=(Finding(NODE, "clock", Verdict.OK, since=6.0),)))
    assert list(again.memory().since.values()) == [(Verdict.OK, 6.0)]
    again.close()


def test_the_number_of_rows_is_bounded(tmp_path: Path) -> None:
    history = History(str(tmp_path), Limits(rows=10))
    for start in range(0, 60, 7):
        history.record(Entry(tuple(event(str(number)) for number in range(start, start + 7))))
    assert texts(history.select(Query())) == [str(number) for number in range(53, 63)]
    history.close()


def test_old_events_go(tmp_path: Path) -> None:
    now = time.time()
    history = History(str(tmp_path), Limits(days=1))
    history.record(Entry((event("older", now - 2 * 86400), event("newer", now))))
    assert texts(history.select(Query())) == ["newer"]
    history.close()


def test_it_is_for_root_only_and_durable_at_each_commit(tmp_path: Path, history: History) -> None:
    history.record(Entry((event("a"),)))
    assert os.stat(tmp_path / HISTORY[1:]).st_mode & 0o777 == 0o600
    with history._using() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("damage", ["rubbish", "half"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    history = History(str(tmp_path))
    history.record(Entry(tuple(event(f"{number} {'x' * 500}") for number in range(200))))
    history.close()
    path = tmp_path / HISTORY[1:]
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(0 if damage == "rubbish" else size // 2)
        file.write(os.urandom(size // 4))
    again = History(str(tmp_path))
    assert again.select(Query()) == ()
    assert Path(again.set_aside).exists()
    assert again.record(Entry((event("goes on"),))) == 1
    again.close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, history: History) -> None:
    history.record(Entry((event("a"),)))
    history.close()
    with closing(sqlite3.connect(tmp_path / HISTORY[1:])) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(HostError, match="format 99"):
        History(str(tmp_path)).memory()


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("not a directory")
    with pytest.raises(HostError, match="the disk has room"):
        History(str(tmp_path)).record(Entry((event("a"),)))


def test_reading_beside_a_writer(tmp_path: Path, history: History) -> None:
    with pytest.raises(GoneError, match="no history yet"):
        read_history(str(tmp_path), Query())
    history.record(Entry((event("a"),)))
    assert texts(read_history(str(tmp_path), Query())) == ["a"]
    history.record(Entry((event("b"),)))
    assert texts(read_history(str(tmp_path), Query(after=1))) == ["b"]


WRITER = """
import sys, time
from nodeagent.host.history import Entry, History
from nodeagent.host.kernel_follow import Cursor
from nodeagent.state.health import NODE, EventKind, HealthEvent
history = History(sys.argv[1])
number = history.memory().cursor.sequence if history.memory().cursor else 0
while True:
    batch = tuple(HealthEvent(time.time(), EventKind.XID, NODE, str(number + step)) for step in range(3))
    history.record(Entry(batch, cursor=Cursor("boot", number + 3)))
    number += 3
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_and_tells_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(66)
    acknowledged = 0
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 40)):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        writer.stdout.close()
        writer.wait(120)
        history = History(str(tmp_path))
        found = [int(text) for text in texts(history.select(Query(limit=100_000)))]
        cursor = history.memory().cursor
        assert found == list(range(len(found)))
        assert cursor == Cursor("boot", len(found))
        assert len(found) >= acknowledged
        assert history.set_aside == ""
        history.close()
