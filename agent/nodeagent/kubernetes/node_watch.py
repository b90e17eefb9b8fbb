"""The node object as it is, told by the API whenever it changes: one request that stays open, in a thread of its own.

Source: kubernetes.io/docs/reference/using-api/api-concepts (watch: without a resourceVersion it begins with the object
as it is; bookmarks; 410 as status or as an event of type ERROR means to begin anew; the server ends it when it likes).
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nodeagent.errors import DeniedError, GoneError, HostError
from nodeagent.host.rounds import Rest, Rounds
from nodeagent.kubernetes.node_api import NodeApi, NodeObject, node_of

ROUND_SECONDS = 240  # how long the API is asked to keep one watch open
SLACK_SECONDS = 15.0
GAP_SECONDS, LONGEST_GAP_SECONDS = 1.0, 60.0
DENIED_SECONDS = 300.0  # a right that is missing now may be given later
PATIENCE_SECONDS = 2.0
EVENT_BYTES = 4 << 20
GONE = 410

log = logging.getLogger("nodeagent")


@dataclass
class NodeWatch:
    """`latest` is the node as last told, None while nobody tells; `changed` is called after each event."""

    api: NodeApi
    changed: Callable[[], None]
    latest: NodeObject | None = None

    def __post_init__(self) -> None:
        self._version = ""
        self._is_open = False
        self._gap = GAP_SECONDS
        self._pause = 0.0
        self._rounds = Rounds("node-watch", self._turn, self._rest)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """End the open request too."""
        self._rounds.end()
        self.api.client.cut()
        self._rounds.stop(PATIENCE_SECONDS)

    def _turn(self) -> None:
        self._pause = self._round() * random.SystemRandom().uniform(0.8, 1.2)  # spreads the load of many nodes

    def _rest(self) -> Rest:
        return Rest(0.0, max(self._pause, self.api.client.rest_seconds()))

    def _round(self) -> float:
        """One watch to its end; how long to wait before the next. One that was cut goes on where it was."""
        self._is_open = False
        try:
            for event in self._events():
                self._take(event)
        except DeniedError as error:
            log.info("the node object is read now and then: %s", error)
            self._forget()
            return DENIED_SECONDS
        except HostError as error:
            log.debug("watch of the node object: %s", error)
            if not self._is_open or isinstance(error, GoneError):
                self._forget()
            gap, self._gap = self._gap, min(2 * self._gap, LONGEST_GAP_SECONDS)
            return gap
        return GAP_SECONDS

    def _forget(self) -> None:
        self.latest, self._version = None, ""

    def _events(self) -> Iterator[Any]:
        """Events until the API ends the watch. HostError."""
        name = self.api.client.access.node
        asked = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(ROUND_SECONDS)}
        asked |= {"fieldSelector": f"metadata.name={name}"} | (
            {"resourceVersion": self._version} if self._version else {}
        )
        path = f"/api/v1/nodes?{urlencode(asked)}"
        with self.api.client.opened("GET", path, seconds=ROUND_SECONDS + SLACK_SECONDS) as answer:
            self._is_open = True
            while line := answer.readline(EVENT_BYTES):
                yield json.loads(line)

    def _take(self, event: Any) -> None:
        kind, document = event.get("type", ""), event.get("object") or {}
        if kind == "ERROR":
            raise (GoneError if document.get("code") == GONE else HostError)(
                "watch",
                f"node {self.api.client.access.node}",
                str(document.get("message") or "the api ends it").lower(),
            )
        found = node_of(document)
        self._version, self._gap = found.version or self._version, GAP_SECONDS
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self.latest = None if kind == "DELETED" else found
            self.changed()
