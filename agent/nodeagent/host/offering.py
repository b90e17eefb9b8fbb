"""What is offered to pods (GPUs by UUID, functions by PCI address), and what of it is withdrawn while a step changes
it; kept in memory only.

After a restart of the agent nothing is withdrawn: what is offered then follows from what is seen then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class LocalOffering:
    """`on_change` is told before `withdraw` and `restore` return, in the thread of whoever called them."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._returning: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._offered: frozenset[str] = frozenset()
        self._withdrawn: frozenset[str] = frozenset()

    @property
    def offered(self) -> frozenset[str]:
        return self._offered

    @property
    def withdrawn(self) -> frozenset[str]:
        """Also those that are back and have not been looked at since: what stands in the last look is gone."""
        return self._withdrawn | self._returning

    def announce(self, names: frozenset[str]) -> None:
        """These GPUs, whole or in parts, and these functions are offered now."""
        self._offered = names

    def withdraw(self, uuid: str) -> None:
        with self._lock:
            self._withdrawn |= {uuid}
        self.on_change()

    def restore(self, uuid: str) -> None:
        with self._lock:
            self._withdrawn -= {uuid}
            self._returning |= {uuid}
        self.on_change()

    def settle(self) -> None:
        """The node was looked at again."""
        with self._lock:
            self._returning = frozenset()
