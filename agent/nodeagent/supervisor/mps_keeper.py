"""Keeps the MPS control daemons that sharing needs: started before shares are offered, watched, started again.

A daemon that dies takes the work of its clients with it; its devices are unhealthy until another one answers. A GPU
that goes does not end the daemon of the others, for the same reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodeagent.errors import HostError
from nodeagent.host.mps import MpsDaemon, MpsWish
from nodeagent.host.rounds import Rest, Rounds

log = logging.getLogger("nodeagent")
LOOK_SECONDS = 10.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 300.0
PATIENCE_SECONDS = 30.0


@dataclass
class _Kept:
    """A daemon, and when it is to be tried again, in monotonic seconds."""

    daemon: MpsDaemon
    ready: bool = False
    due: float = 0.0
    wait_seconds: float = FIRST_WAIT_SECONDS


class MpsKeeper:
    """`wanted` says which daemons by resource; `on_change` is told when `ready` is another. `path` and `launcher` as of
    MpsDaemon.
    """

    def __init__(
        self,
        wanted: Callable[[], Mapping[str, MpsWish]],
        on_change: Callable[[], None],
        path: str | None = None,
        launcher: tuple[str, ...] = (),
    ) -> None:
        self._wanted, self._on_change, self._path, self._launcher = wanted, on_change, path, launcher
        self._kept: dict[str, _Kept] = {}
        self._ready: frozenset[str] = frozenset()
        self._rounds = Rounds("mps", lambda: self.look(time.monotonic()), lambda: Rest(LOOK_SECONDS), about="mps")

    @property
    def ready(self) -> frozenset[str]:
        """UUIDs of the GPUs whose daemon answers."""
        return self._ready

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """The daemons go on: pods compute through them."""
        self._rounds.stop(PATIENCE_SECONDS)

    def ask(self) -> None:
        """Something else may be wanted."""
        self._rounds.wake()

    def look(self, now: float) -> None:
        """One round at `now`, in monotonic seconds."""
        wanted = self._wanted()
        for resource in sorted({*wanted, *self._kept}):
            self._follow(resource, wanted.get(resource))
        for resource, kept in self._kept.items():
            self._look_after(resource, kept, now)
        ready = frozenset(uuid for kept in self._kept.values() if kept.ready for uuid, _ in kept.daemon.wish.gpus)
        if ready != self._ready:
            self._ready = ready
            self._on_change()

    def _follow(self, resource: str, wish: MpsWish | None) -> None:
        kept = self._kept.get(resource)
        if kept is not None and (wish is None or not _serves(kept.daemon.wish, wish)):
            log.info("mps: ending the control daemon of %s", resource)
            kept.daemon.stop()
            del self._kept[resource]
            kept = None
        if kept is None and wish is not None:
            self._kept[resource] = _Kept(MpsDaemon(wish, self._path, self._launcher))

    def _look_after(self, resource: str, kept: _Kept, now: float) -> None:
        if kept.daemon.is_alive():
            if not kept.ready and _is_another(kept.daemon):
                log.info("mps: the control daemon of %s was started for other shares, and is started anew", resource)
                self._start(resource, kept, stop=True)
                return
            if not kept.ready:
                log.info("mps: the control daemon of %s is up", resource)
            kept.ready, kept.wait_seconds = True, FIRST_WAIT_SECONDS
            return
        if kept.ready:
            log.error("mps: the control daemon of %s is gone; the work of its clients is lost", resource)
            kept.ready, kept.due = False, now
        if now < kept.due:
            return
        kept.due = now + kept.wait_seconds
        kept.wait_seconds = min(2 * kept.wait_seconds, LONGEST_WAIT_SECONDS)
        self._start(resource, kept)

    def _start(self, resource: str, kept: _Kept, *, stop: bool = False) -> None:
        try:
            if stop:
                kept.daemon.stop()
            kept.daemon.start()
        except HostError as error:
            log.warning("mps: the control daemon of %s does not start: %s", resource, error)
        else:
            kept.ready = kept.daemon.is_alive()


def _is_another(daemon: MpsDaemon) -> bool:
    """Whether the one that is there was started by an agent for what no longer holds, as before a restart of ours."""
    found = daemon.started_for()
    return found is not None and not _serves(found, daemon.wish)


def _serves(has: MpsWish, wish: MpsWish) -> bool:
    """Whether a daemon does for a wish: the same shares, and every GPU that is wanted."""
    return has.shares == wish.shares and has.directory == wish.directory and set(wish.gpus) <= set(has.gpus)
