"""Kernel events that should wake the agent: modules, PCI functions, interfaces and RDMA devices that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SUBSYSTEMS = ("module", "pci", "net", "infiniband", "nvidia")


class UdevWatch:
    """Uevents as the kernel sends them (they need no udevd). Address, MTU and GID changes give no uevent.

    Where they cannot be had, `degraded` says why and `descriptor` is None: the loop then has its timer only.
    """

    def __init__(self, subsystems: Sequence[str] = SUBSYSTEMS) -> None:
        self._monitor: Any = None
        self.degraded = ""
        try:
            self._monitor = _open_monitor(subsystems)
        except (ImportError, OSError) as error:
            self.degraded = f"no kernel events: {str(error).lower()}"

    @property
    def descriptor(self) -> int | None:
        """File descriptor to wait on for reading."""
        return self._monitor.fileno() if self._monitor is not None else None

    def drain(self) -> tuple[str, ...]:
        """The events that have arrived, such as `add module mlx5_core`; does not wait.

        When the kernel's queue ran over, events are lost: `overrun` stands for them and something has changed.
        """
        events = []
        while self._monitor is not None:
            try:
                device = self._monitor.poll(timeout=0)
            except OSError as error:
                events.append(f"overrun: {str(error).lower()}")
                break
            if device is None:
                break
            events.append(f"{device.action} {device.subsystem} {device.sys_name}")
        return tuple(events)

    def close(self) -> None:
        """Stop watching; the descriptor is closed with the last reference to the monitor."""
        self._monitor = None


def _open_monitor(subsystems: Sequence[str]) -> Any:
    import pyudev  # noqa: PLC0415 - needs libudev, which a container may lack: then the watch is degraded

    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    for subsystem in subsystems:
        monitor.filter_by(subsystem)
    monitor.start()
    return monitor
