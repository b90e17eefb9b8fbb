"""Runs in the sandbox of the service in the agent's place: what it may do and what not, as JSON on standard output."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nodeagent.errors import NodeAgentError
from nodeagent.host.clock import RealClock
from nodeagent.host.files import LocalFiles
from nodeagent.host.processes import ProcProcesses
from nodeagent.host.services import Systemd
from nodeagent.state.processes import DeviceNode

if TYPE_CHECKING:
    from collections.abc import Callable

NVIDIA_MAJOR = 195
LIBC = ctypes.CDLL(None, use_errno=True)


def opened(path: str) -> bool:
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return True


def directory_of_a_device() -> str:
    LocalFiles().make_device_node(DeviceNode("/dev/standin-probe/one", NVIDIA_MAJOR, 0, 0o444, 0, 0))
    return oct(os.stat("/dev/standin-probe").st_mode & 0o777)


def addresses_shown() -> bool:
    with open("/proc/kallsyms") as symbols:
        return any(int(line.split()[0], 16) for line in itertools.islice(symbols, 1000))


def kernel_log_read() -> bool:
    device = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return len(os.read(device, 8192)) > 0


def mounted() -> bool:
    if LIBC.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")
    return True


def written(path: str, text: str) -> bool:
    Path(path).write_text(text)
    return True


PROBES: dict[str, Callable[[], object]] = {
    "gpu": lambda: opened("/dev/nvidia0"),
    "gpu holders": lambda: [found.pid for found in ProcProcesses(LocalFiles()).holding([NVIDIA_MAJOR])],
    "device directory": directory_of_a_device,
    "kernel log": kernel_log_read,
    "kernel addresses": addresses_shown,
    "pci configuration bytes": lambda: len(LocalFiles().read_bytes("/sys/bus/pci/devices/0000:00:00.0/config", 256)),
    "sysfs": lambda: written("/sys/class/net/lo/ifalias", "probe\n"),
    "units": lambda: [unit.unit for unit in Systemd(LocalFiles(), RealClock()).show(["nodeagent-probe.service"])],
    "state": lambda: written("/var/lib/nodeagent/probe", ""),
    "/etc": lambda: written("/etc/probe", ""),
    "/usr": lambda: written("/usr/probe", ""),
    "mount": mounted,
}


def answer(probe: Callable[[], object]) -> object:
    try:
        return probe()
    except (OSError, NodeAgentError) as error:
        return str(error)


if __name__ == "__main__":
    json.dump({name: answer(probe) for name, probe in PROBES.items()}, sys.stdout)
