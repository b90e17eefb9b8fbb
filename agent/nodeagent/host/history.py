"""What happened on the node, kept over restarts and power cuts: one SQLite file in the state directory.

Events, the verdicts in force and the position in the kernel's log are written in one transaction: after a crash nothing
is told twice and nothing is left out. WAL with synchronous=FULL is durable at each commit (sqlite.org/pragma.html).
A damaged file is set aside and said, never repaired in silence.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from nodeagent.errors import GoneError, HostError
from nodeagent.host import paths
from nodeagent.host.kernel_follow import Cursor
from nodeagent.state.health import EventKind, Finding, HealthEvent, Recovery, Subject, SubjectKind, Verdict

FORMAT = 1
BUSY_SECONDS = 2.0
TIDY_SECONDS = 3600.0
SECONDS_A_DAY = 86400.0

_TABLES = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL,
    subject_kind TEXT NOT NULL, subject TEXT NOT NULL, pci TEXT NOT NULL, parent TEXT NOT NULL,
    text TEXT NOT NULL, "check" TEXT NOT NULL, verdict TEXT, code INTEGER, recovery TEXT NOT NULL,
    data TEXT NOT NULL, identity TEXT UNIQUE);
CREATE INDEX events_by_time ON events (time);
CREATE TABLE verdicts (
    subject_kind TEXT NOT NULL, subject TEXT NOT NULL, "check" TEXT NOT NULL, verdict TEXT NOT NULL,
    since REAL NOT NULL, PRIMARY KEY (subject_kind, subject, "check"));
CREATE TABLE memory (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_INSERT = (
    'INSERT OR IGNORE INTO events (time, kind, subject_kind, subject, pci, parent, text, "check", verdict, code, '
    "recovery, data, identity) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
Key = tuple[SubjectKind, str, str]


@dataclass(frozen=True)
class Limits:
    """How much is kept: the newest `rows` events, none older than `days`."""

    rows: int = 100_000
    days: float = 90.0


@dataclass(frozen=True)
class Query:
    """Which events: since a time (Unix seconds), after a number, of some kinds, about a subject; the newest `limit`."""

    since: float = 0.0
    after: int = 0
    kinds: tuple[EventKind, ...] = ()
    subject: str = ""
    limit: int = 1000


@dataclass(frozen=True)
class Memory:
    """What an earlier run knew: where the kernel's log was read to, and since when each verdict is in force.

    `learned` are expectations, such as how many GPUs the node has had.
    """

    cursor: Cursor | None = None
    since: Mapping[Key, tuple[Verdict, float]] = field(default_factory=lambda: MappingProxyType({}))
    learned: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Entry:
    """What one cycle has to be kept: events that happened, and what a later run must know."""

    events: tuple[HealthEvent, ...] = ()
    findings: tuple[Finding, ...] = ()
    cursor: Cursor | None = None
    learned: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class History:
    """The file for whoever writes it; one connection, one thread at a time. HostError where the disk refuses.

    `set_aside` is where a damaged file was put, "" if there was none.
    """

    def __init__(self, root: str = "/", limits: Limits | None = None) -> None:
        self.path = root.rstrip("/") + paths.HISTORY
        self.limits = limits or Limits()
        self.set_aside = ""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._tidied = float("-inf")

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def memory(self) -> Memory:
        """What the run before knew."""
        with self._using() as connection:
            return _memory(connection)

    def record(self, entry: Entry) -> int:
        """Keep all of it, or nothing; how many of the events were new."""
        with self._using() as connection, connection:
            before = connection.total_changes
            connection.executemany(_INSERT, map(_row, entry.events))
            added = connection.total_changes - before
            self._remember(connection, entry)
            self._tidy(connection, added)
        return added

    def select(self, query: Query) -> tuple[HealthEvent, ...]:
        """Events in their order, oldest first."""
        with self._using() as connection:
            return _select(connection, query)

    def _remember(self, connection: sqlite3.Connection, entry: Entry) -> None:
        named = dict(entry.learned)
        if entry.cursor is not None:
            named |= {"kmsg boot": entry.cursor.boot_id, "kmsg sequence": str(entry.cursor.sequence)}
        connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?)", named.items())
        if entry.findings:
            connection.execute("DELETE FROM verdicts")
            rows = ((*finding.key, finding.verdict.value, finding.since) for finding in entry.findings)
            connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)", rows)

    def _tidy(self, connection: sqlite3.Connection, added: int) -> None:
        if added:
            newest = connection.execute("SELECT max(number) FROM events").fetchone()[0] or 0
            connection.execute("DELETE FROM events WHERE number <= ?", (newest - self.limits.rows,))
        if time.monotonic() - self._tidied >= TIDY_SECONDS:
            self._tidied = time.monotonic()
            connection.execute("DELETE FROM events WHERE time < ?", (time.time() - self.limits.days * SECONDS_A_DAY,))

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _errors("write", self.path):
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except sqlite3.DatabaseError as error:
                if self._connection is not None and _is_damage(error):
                    self._connection.close()
                    self._connection = None  # looked at anew, and set aside, with the next use
                raise

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        try:
            return _opened(self.path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self.set_aside = f"{self.path}.damaged-{time.time_ns()}"
        os.rename(self.path, self.set_aside)
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.path + suffix):
                os.rename(self.path + suffix, self.set_aside + suffix)
        return _opened(self.path)


def read_history(root: str, query: Query) -> tuple[HealthEvent, ...]:
    """Events for somebody who only reads, whether or not an agent runs. GoneError where there is no history yet."""
    path = root.rstrip("/") + paths.HISTORY
    if not os.path.exists(path):
        raise GoneError("read", path, "there is no history yet", "the running agent writes it")
    with _errors("read", path), closing(_connect(f"file:{path}?mode=ro")) as connection:
        return _select(connection, query)


def read_memory(root: str) -> Memory:
    """What the last run knew, for somebody who only reads; nothing where there is no history, or it may not be read."""
    path = root.rstrip("/") + paths.HISTORY
    try:
        with closing(_connect(f"file:{path}?mode=ro")) as connection:
            return _memory(connection)
    except sqlite3.Error:
        return Memory()


def _memory(connection: sqlite3.Connection) -> Memory:
    named = dict(connection.execute("SELECT name, value FROM memory"))
    rows = connection.execute('SELECT subject_kind, subject, "check", verdict, since FROM verdicts')
    since = {(SubjectKind(kind), name, check): (Verdict(word), at) for kind, name, check, word, at in rows}
    sequence = named.pop("kmsg sequence", "")
    boot_id = named.pop("kmsg boot", "")
    cursor = Cursor(boot_id, int(sequence)) if sequence.isdigit() else None
    return Memory(cursor, since, named)


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level="IMMEDIATE"
    )


def _opened(path: str) -> sqlite3.Connection:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    connection = _connect(f"file:{path}")
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        _check(connection)
        _make_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > FORMAT:
        reason = f"it has format {found}, this version writes format {FORMAT}"
        raise HostError("open", path, reason, "use the newer version, or move the file away")
    if found == 0:
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={FORMAT}; COMMIT;")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return any(word in str(error) for word in ("malformed", "not a database"))


@contextmanager
def _errors(operation: str, path: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HostError(operation, path, reason.lower(), "see that the disk has room and can be written") from error


def _row(event: HealthEvent) -> tuple[Any, ...]:
    subject = event.subject
    return (
        event.time,
        event.kind.value,
        subject.kind.value,
        subject.name,
        subject.pci_address,
        subject.parent,
        event.text,
        event.check,
        event.verdict.value if event.verdict else None,
        event.code,
        event.recovery.value,
        json.dumps(dict(event.data)),
        event.identity or None,
    )


_SELECT = (
    'SELECT number, time, kind, subject_kind, subject, pci, parent, text, "check", verdict, code, recovery, data, '
    "identity FROM events WHERE time >= ? AND number > ? AND (? = '' OR subject = ? OR pci = ? OR parent = ?)"
)


def _select(connection: sqlite3.Connection, query: Query) -> tuple[HealthEvent, ...]:
    text, values = _SELECT, [query.since, query.after, *[query.subject] * 4]
    if query.kinds:
        text += f" AND kind IN ({', '.join('?' * len(query.kinds))})"
        values += [kind.value for kind in query.kinds]
    rows = connection.execute(f"{text} ORDER BY number DESC LIMIT ?", [*values, query.limit]).fetchall()
    return tuple(_event(*row) for row in reversed(rows))


def _event(number: int, at: float, kind: str, *rest: Any) -> HealthEvent:
    subject_kind, name, pci, parent, text, check, verdict, code, recovery, data, identity = rest
    event = HealthEvent(at, EventKind(kind), Subject(SubjectKind(subject_kind), name, pci, parent), text, check)
    return replace(
        event,
        verdict=Verdict(verdict) if verdict else None,
        code=code,
        recovery=Recovery(recovery),
        data=tuple(json.loads(data).items()),
        identity=identity or "",
        number=number,
    )
