"""A host on which the agent dies: before a chosen call that changes the machine, and so after the one before it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nodeagent.host.ports import Host

# Calls that change the machine, by port. Between two of them the agent only reads.
CHANGES: Mapping[str, tuple[str, ...]] = {
    "kmod": ("load", "unload"),
    "nvml": (
        "set_mig_mode",
        "create_gpu_instance",
        "destroy_gpu_instance",
        "create_compute_instance",
        "destroy_compute_instance",
        "release",
        "reset_gpu",
    ),
    "services": ("start", "stop"),
    "links": ("set_up", "set_mtu", "set_vf", "restore", "rename", "set_roce_mode", "set_roce_tos", "set_traffic_class"),
    "files": ("write", "replace", "remove", "make_device_node"),
}
# The same of the ports that are part of another.
PARTS: Mapping[str, tuple[str, ...]] = {
    "functions": ("set_vf_count", "set_driver", "set_pcie", "set_congestion"),
    "settings": ("write",),
    "addressing": ("add_address", "remove_address", "add_route", "remove_route", "add_rule", "remove_rule"),
    "rdma": ("rename",),
    "dcb": ("write_dcbx", "write_pfc", "write_ets", "write_dscp", "write_buffers", "write_max_rate"),
    "devlink": ("set_eswitch_mode", "set_parameter", "reinitialize"),
}


@dataclass
class Fuse:
    """Kills this process at the `left`-th call."""

    left: int

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """One port whose changes burn the fuse."""

    def __init__(self, port: Any, changes: tuple[str, ...], fuse: Fuse) -> None:
        self._port, self._changes, self._fuse = port, changes, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name in PARTS:
            return Mortal(found, PARTS[name], self._fuse)
        if name not in self._changes:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._fuse.burn()
            return found(*arguments, **options)

        return call


def mortal(host: Host, instant: int, ports: tuple[str, ...] = tuple(CHANGES)) -> Host:
    """The host with a fuse: the process ends before its `instant`-th change through these ports."""
    fuse = Fuse(instant)
    return replace(host, **{name: Mortal(getattr(host, name), CHANGES[name], fuse) for name in ports})


def in_child(work: Callable[[], int]) -> int:
    """What `work` returns in a forked child, or minus the signal that ended it; -100 where it raised."""
    pid = os.fork()
    if pid == 0:
        code = 100
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
