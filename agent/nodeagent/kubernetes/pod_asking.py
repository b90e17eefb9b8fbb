"""The kubelet is asked once, now, which pods have which devices: before a step that could take one from them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nodeagent.errors import GoneError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodeagent.kubernetes.pod_resources import KubeletPods
    from nodeagent.state.pods import PodFacts


class PodAsker:
    """Called with the socket's path on the node; `path_of` says where that really is.

    While a kubelet restarts its last answer counts: its pods go on.
    """

    def __init__(self, path_of: Callable[[str], str]) -> None:
        self._path_of = path_of
        self._last: PodFacts | None = None

    def __call__(self, socket: str) -> PodFacts | None:
        """None where no kubelet ever answered. DeadlineError, HostError: there is one, and it does not say."""
        place = self._path_of(socket)
        if os.path.exists(place):
            kubelet = open_kubelet(place)
            try:
                self._last = kubelet.read()
            except GoneError:
                pass
            finally:
                kubelet.close()
        return self._last


def open_kubelet(place: str) -> KubeletPods:
    """UnsupportedError where the library for it is not installed."""
    try:
        from nodeagent.kubernetes.pod_resources import KubeletPods  # noqa: PLC0415 - 12 MB
    except ImportError as error:
        about = ("ask for pods at", place)
        raise UnsupportedError(*about, f"{error.name} is missing", "install nodeagent[kubernetes]") from error
    return KubeletPods(place)
