"""Health at work: each round of the sampler is one cycle; verdicts, history and webhooks come of it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from nodeagent.errors import HostError
from nodeagent.health.documents import health_document
from nodeagent.health.incidents import BY_KERNEL
from nodeagent.health.monitor import Before, Cycle, Monitor
from nodeagent.host.history import Entry, History, Limits, Memory, Query
from nodeagent.host.ports import Host
from nodeagent.host.rounds import Complaint
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.state.health import NODE, EventKind, Health, HealthEvent, SubjectKind
from nodeagent.supervisor.health_facts import Reading, observe
from nodeagent.supervisor.log_tail import LogTail
from nodeagent.supervisor.webhooks import Webhooks

WAITING = 2000  # events that wait for a disk that refuses
REPLAYED = 20_000
QUIET_WRITE_SECONDS = 300.0  # a quiet node writes only its position in the log, and seldom

log = logging.getLogger("nodeagent")


class HealthWatch:
    """Everything between observation and verdict that does I/O. `health` is replaced as a whole for any thread to read.

    A history that cannot be written is said once, and what happens is kept for a while until it can be.
    """

    def __init__(self, host: Host, spec: HealthSpec, path_of: Callable[[str], str] = str) -> None:
        self.health = Health()
        self.after: Callable[[Health], Health] = lambda health: health  # what repair has to say comes in here
        self.history = History(host.files.root, Limits(spec.history_rows, spec.history_days))
        self.webhooks = Webhooks(path_of)
        self._host, self._spec = host, spec
        self._node = socket.gethostname()
        self._waiting: list[HealthEvent] = []
        self._complaint = Complaint("history", logging.ERROR)
        self._lock = threading.Lock()
        self._written, self._learned = float("-inf"), dict[str, str]()
        self._action_seen = 0
        self._started, self._xids = time.time(), dict[str, Mapping[int, int]]()
        memory = self._remembered()
        self.log = LogTail(host.files.root, memory.cursor)
        self._monitor = Monitor(spec, Before(memory.since, memory.learned, self._of_this_boot(memory)))
        self.webhooks.take_over(spec.webhooks)

    def start(self) -> None:
        self.log.start()

    def stop(self) -> None:
        self.log.stop()
        self.webhooks.stop()
        self.history.close()

    def take_over(self, spec: HealthSpec) -> None:
        """The node file was read again."""
        with self._lock:
            self._spec = spec
            self._monitor.take_over(spec)
            self.history.limits = Limits(spec.history_rows, spec.history_days)
            self.webhooks.take_over(spec.webhooks)

    def examine(self, reading: Reading) -> Health:
        """One cycle."""
        with self._lock:
            seen = observe(self._host, reading, self._spec.disks)
            self._take_up_actions()
            batch, trouble = self.log.take()
            cycle = self._monitor.cycle(replace(seen, log_trouble=trouble), batch)
            self._record(cycle, Entry(findings=cycle.health.findings, cursor=batch.cursor, learned=cycle.learned))
            self.webhooks.tell(cycle.changes, self._node)
            self._count_xids(cycle.events)
            self.health = replace(self.after(cycle.health), logged_xids=MappingProxyType(dict(self._xids)))
        return self.health

    def _count_xids(self, events: Iterable[HealthEvent]) -> None:
        """Those of whole GPUs that the kernel's log told of since the agent started, not of before."""
        for event in events:
            by_kernel = event.kind is EventKind.XID and ("source", BY_KERNEL) in event.data
            of_a_gpu = event.subject.kind is SubjectKind.GPU and event.time >= self._started
            if by_kernel and of_a_gpu and event.code is not None:
                known = self._xids.get(event.subject.name, {})
                self._xids[event.subject.name] = {**known, event.code: known.get(event.code, 0) + 1}

    def _take_up_actions(self) -> None:
        """Somebody may have dealt with errors since the last cycle, and said so in the history."""
        try:
            found = self.history.select(Query(after=self._action_seen, kinds=(EventKind.ACTION,)))
        except HostError as error:
            self._complaint.say(str(error))
            return
        for event in found:
            self._action_seen = event.number
            if event.check == "xid":
                self._monitor.acknowledge(event.subject)

    def document(self) -> dict[str, Any]:
        """For the control socket."""
        return health_document(self.health)

    def _record(self, cycle: Cycle, entry: Entry) -> None:
        self._waiting = [*self._waiting, *cycle.events][-WAITING:]
        due = time.monotonic() - self._written >= QUIET_WRITE_SECONDS
        if not (self._waiting or due or dict(entry.learned) != self._learned):
            return
        try:
            self.history.record(Entry(tuple(self._waiting), entry.findings, entry.cursor, entry.learned))
        except HostError as error:
            self._complaint.say(str(error))
        else:
            self._waiting.clear()
            self._complaint.over()
            self._written, self._learned = time.monotonic(), dict(entry.learned)

    def _remembered(self) -> Memory:
        try:
            memory = self.history.memory()
        except HostError as error:
            self._complaint.say(str(error))
            return Memory()
        if self.history.set_aside:
            text = f"the history was damaged and is set aside as {self.history.set_aside}"
            log.error("%s", text)
            self._waiting.append(HealthEvent(time.time(), EventKind.AGENT, NODE, text))
        return memory

    def _of_this_boot(self, memory: Memory) -> tuple[HealthEvent, ...]:
        """What an earlier run saw since the machine was started; nothing where the machine was started anew."""
        if memory.cursor is None or memory.cursor.boot_id != self.log.boot_id:
            return ()
        kinds = (EventKind.XID, EventKind.SXID, EventKind.KERNEL, EventKind.ACTION, EventKind.AGENT)
        try:
            found = self.history.select(Query(kinds=kinds, limit=REPLAYED, since=self.log.booted))
        except HostError as error:
            self._complaint.say(str(error))
            return ()
        self._action_seen = max((event.number for event in found), default=0)
        return found
