"""Tells webhooks of changes: a thread and a bounded queue for each, so that a slow one holds up nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from nodeagent.errors import DeniedError, HostError
from nodeagent.health.damping import BAD, Change
from nodeagent.health.documents import finding_document
from nodeagent.host.rounds import Rest, Rounds
from nodeagent.host.webhook import post, read_token
from nodeagent.spec.health import HealthWebhook, TellFrom
from nodeagent.state.health import Verdict

QUEUE = 256  # changes that wait; older ones go first, and how many is told with the next
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0
PATIENCE_SECONDS = 1.0
ATTEMPTS = 10  # in a row for one change

log = logging.getLogger("nodeagent")
Send = Callable[[dict[str, Any]], None]


class Hook:
    """One webhook. `path_of` says where a path of the node file really is."""

    def __init__(self, section: HealthWebhook, path_of: Callable[[str], str], first_wait_seconds: float) -> None:
        self.section = section
        self.sent = 0
        self.dropped = 0
        self._path_of = path_of
        self._first_wait = first_wait_seconds
        self._queue: deque[dict[str, Any]] = deque(maxlen=QUEUE)
        self._lock = threading.Lock()
        self._rounds = Rounds("webhook", self._deliver_all, lambda: Rest(None))
        self._rounds.start()

    def offer(self, document: dict[str, Any]) -> None:
        """Never waits."""
        with self._lock:
            self.dropped += len(self._queue) == QUEUE
            self._queue.append(document)
        self._rounds.wake()

    def stop(self) -> None:
        self._rounds.stop(PATIENCE_SECONDS)

    def _deliver_all(self) -> None:
        while self._queue and not self._rounds.is_stopping:
            self._deliver(self._queue.popleft())

    def _deliver(self, document: dict[str, Any]) -> None:
        """With doubling waits; given up after some, or at once where the other side refuses for good."""
        wait = self._first_wait
        for attempt in range(ATTEMPTS):
            try:
                token = read_token(self._path_of(self.section.token_file))
                post(self.section.url, {**document, "dropped": self.dropped}, token, self.section.timeout_seconds)
            except DeniedError as error:
                log.warning("webhook: %s", error)
                break
            except HostError as error:
                if attempt == 0:
                    log.warning("webhook, tried again: %s", error)
                if self._rounds.pause(wait):
                    return
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            else:
                self.sent += 1
                return
        with self._lock:
            self.dropped += 1


class Webhooks:
    """All of them; those whose section did not change are kept when the node file is read again."""

    def __init__(self, path_of: Callable[[str], str] = str, first_wait_seconds: float = FIRST_WAIT_SECONDS) -> None:
        self._path_of = path_of
        self._first_wait = first_wait_seconds
        self._hooks: dict[HealthWebhook, Hook] = {}

    def take_over(self, sections: Iterable[HealthWebhook]) -> None:
        wanted = dict.fromkeys(sections)
        for section in [one for one in self._hooks if one not in wanted]:
            self._hooks.pop(section).stop()
        for section in wanted:
            if section not in self._hooks:
                self._hooks[section] = Hook(section, self._path_of, self._first_wait)

    def tell(self, changes: Iterable[Change], node: str) -> None:
        """Offer each change to those who want to know of it."""
        for change in changes:
            for section, hook in self._hooks.items():
                if _matters(change, section.tell_from):
                    hook.offer(change_document(change, node))

    def stop(self) -> None:
        self.take_over(())


def _matters(change: Change, tell_from: TellFrom) -> bool:
    """Bad enough now, or bad enough before and better now."""
    least = {TellFrom.WARNING: BAD, TellFrom.FAILED: (Verdict.FAILED,)}[tell_from]
    return change.finding.verdict in least or change.before in least


def change_document(change: Change, node: str) -> dict[str, Any]:
    """What is posted, with stable keys."""
    return {
        "schemaVersion": 1,
        "node": node,
        "before": change.before.value if change.before else None,
        "finding": finding_document(change.finding),
    }
