"""Keeps what the kubelet says about pods and devices: asked in a thread of its own, so that it can hold up nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nodeagent.errors import HostError
from nodeagent.host.rounds import Complaint, Rest, Rounds
from nodeagent.kubernetes.pod_asking import open_kubelet
from nodeagent.state.pods import PodFacts

if TYPE_CHECKING:
    from nodeagent.kubernetes.pod_resources import KubeletPods

_PATIENCE_SECONDS = 1.0


class PodWatch:
    """`facts` is None where no kubelet was ever seen; while it is away the last answer stays, and its age tells.

    `socket` may be changed at any time; "" asks nobody.
    """

    def __init__(self, socket: str, seconds: float) -> None:
        self.socket, self.seconds = socket, seconds
        self.facts: PodFacts | None = None
        self.errors = 0
        self._kubelet: KubeletPods | None = None
        self._asked = ""
        self._complaint = Complaint("pods not known, the last answer stays")
        self._rounds = Rounds("pods", self.look, lambda: Rest(self.seconds), at_end=self._drop)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop(_PATIENCE_SECONDS)

    def look(self) -> None:
        """Ask once; a node without a kubelet costs one look at its socket's place."""
        if self.socket != self._asked:
            self._drop()
            self.facts, self._asked = None, self.socket
        if not self.socket or (self._kubelet is None and not os.path.exists(self.socket)):
            return
        try:
            self.facts = self._opened().read()
            self._complaint.over()
        except HostError as error:
            self._failed(error)

    def _failed(self, error: HostError) -> None:
        self.errors += 1
        if self.facts is None:
            self.facts = PodFacts()  # there is a kubelet, and it has not answered yet
        self._complaint.say(str(error))

    def _opened(self) -> KubeletPods:
        if self._kubelet is None:
            self._kubelet = open_kubelet(self.socket)
        return self._kubelet

    def _drop(self) -> None:
        if self._kubelet is not None:
            self._kubelet.close()
            self._kubelet = None
