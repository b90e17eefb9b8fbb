"""Pushes each round of telemetry over OTLP, in a thread of its own: a receiver that is slow or away holds up nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host.rounds import Rest, Rounds

if TYPE_CHECKING:
    from nodeagent.metrics.otlp import OtlpReceiver
    from nodeagent.metrics.view import View

_PATIENCE_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0


class OtlpPush:
    """Of rounds that come while one is on its way only the latest is sent: nothing piles up.

    `endpoint` may be changed at any time; "" sends nothing. `sent` and `errors` count rounds.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.sent = self.errors = 0
        self._receiver: OtlpReceiver | None = None
        self._to = ""
        self._next: View | None = None
        self._rounds = Rounds("otlp", self._push, lambda: Rest(None), at_end=self._drop)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop(_PATIENCE_SECONDS)

    def offer(self, view: View) -> None:
        """Send this round as soon as the one before is through; returns at once."""
        if self.endpoint:
            self._next = view
            self._rounds.wake()

    def _push(self) -> None:
        view, self._next = self._next, None
        if view is None:
            return
        try:
            self._opened().send(view)
        except HostError:
            self.errors += 1
            raise
        self.sent += 1

    def _opened(self) -> OtlpReceiver:
        if self._receiver is None or self._to != self.endpoint:
            self._drop()
            try:
                from nodeagent.metrics.otlp import OtlpReceiver  # noqa: PLC0415 - 17 MB
            except ImportError as error:
                about = ("push metrics to", self.endpoint)
                raise UnsupportedError(*about, f"{error.name} is missing", "install nodeagent[otlp]") from error
            self._receiver, self._to = OtlpReceiver(self.endpoint, _TIMEOUT_SECONDS), self.endpoint
        return self._receiver

    def _drop(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
