"""What writing a route through pyroute2 costs, against a run of `ip` for each as shell scripts and other agents do it.

PYTHONPATH=agent:tests unshare -rn python tests/bench/addressing_figures.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks
from nodeagent.state.addressing import Route

ROUTES = 100
NETDEV, GATEWAY = "ens1", "10.7.0.254"


@dataclass(frozen=True)
class Cost:
    """Of this process and the programs that it ran; `grown_mib` is what its own resident memory grew by."""

    seconds: float
    cpu_seconds: float
    grown_mib: float


def cost_of(work: Callable[[], None]) -> Cost:
    """Done once."""
    before, memory, cpu = time.monotonic(), _resident_mib(), _cpu_seconds()
    work()
    return Cost(time.monotonic() - before, _cpu_seconds() - cpu, _resident_mib() - memory)


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main() -> None:
    _ip("link", "add", NETDEV, "type", "veth", "peer", "name", "ens2")
    for name in (NETDEV, "ens2"):
        _ip("link", "set", name, "up")
    addressing = RtnlLinks(LocalFiles()).addressing

    def by_agent() -> None:
        for number in range(ROUTES):
            addressing.add_route(NETDEV, Route(f"10.{number + 20}.0.0/16", GATEWAY, 1000))

    def by_program() -> None:
        for number in range(ROUTES):
            _ip("route", "replace", f"10.{number + 20}.0.0/16", "via", GATEWAY, "dev", NETDEV, "table", "1001")

    first = cost_of(lambda: addressing.add_address(NETDEV, "10.7.0.1/24"))
    print(f"first write: {first.cpu_seconds:.2f} s of CPU time, {first.grown_mib:.0f} MiB")
    ours, theirs = cost_of(by_agent), cost_of(by_program)
    for name, found in (("pyroute2", ours), ("ip for each", theirs)):
        print(
            f"{name}: {found.seconds / ROUTES * 1e3:.2f} ms a route, {found.cpu_seconds / ROUTES * 1e3:.2f} ms of CPU"
        )
    print(f"ratio: {theirs.seconds / ours.seconds:.1f}")


if __name__ == "__main__":
    main()
