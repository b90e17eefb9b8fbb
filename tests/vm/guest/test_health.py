"""Health on a real kernel: what a driver logs, what a process claims, a log that overruns, a port that goes down."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nodeagent.health.monitor import Before, Monitor
from nodeagent.health.observation import Observation
from nodeagent.host.kernel_follow import KmsgFollower
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.host.local import open_host
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.spec.health import HealthDamping
from nodeagent.state.health import EventKind, Verdict
from nodeagent.state.node import NodeState
from nodeagent.supervisor.health_facts import Reading
from nodeagent.supervisor.health_watch import HealthWatch
from vm.guest import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.host.kmod import LibKmod

SPEC = HealthSpec(damping=HealthDamping(hold_seconds=0.0))
PARAMETERS = Path("/sys/module/stub_xid/parameters")


@pytest.fixture
def driver(kmod: LibKmod) -> Path:
    """A module that logs as the kernel what is written to its parameters."""
    kmod.load("stub_xid")
    return PARAMETERS


def load(kmod: LibKmod, name: str) -> None:
    for file in kmod.lookup(name):
        if not file.builtin and file.name not in kernel.loaded():
            kmod.load(file.name)


def test_what_the_driver_logs_counts_and_what_a_process_claims_is_refused(driver: Path) -> None:
    follower, monitor = KmsgFollower(), Monitor(SPEC, Before())
    follower.read()
    with open("/dev/kmsg", "w") as log:
        log.write("<3>NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.\n")
    (driver / "say").write_text(
        "NVRM: Xid (PCI:0000:3b:00): 95, pid=1, name=a, Uncontained: SM (0x1). RST: Yes, D-RST: No\n"
    )
    before = time.time()
    cycle = monitor.cycle(Observation(before), follower.read())
    found = [one for one in cycle.health.problems if one.check == "xid"]
    assert [(one.subject.pci_address, one.verdict, one.codes) for one in found] == [
        ("0000:3b:00.0", Verdict.FAILED, (95,))
    ]
    refused = [one for one in cycle.events if one.kind is EventKind.KERNEL and "refused" in one.text]
    assert len(refused) == 1
    xids = [one for one in cycle.events if one.kind is EventKind.XID]
    assert [abs(one.time - before) < 5 for one in xids] == [True]
    follower.close()


def test_a_log_that_overran_is_noticed_and_reading_goes_on(driver: Path) -> None:
    follower = KmsgFollower()
    follower.read()
    while follower.read().more:
        pass
    (driver / "flood").write_text("20000")
    (driver / "say").write_text("NVRM: Xid (PCI:0000:3b:00): 48, after the flood\n")
    lost, read, texts = 0, 0, []
    while (batch := follower.read()).records:
        lost, read = lost + batch.lost, read + len(batch.records)
        texts += [record.text for record in batch.records]
    assert lost > 0
    assert lost + read >= 20001
    assert any("after the flood" in text for text in texts)
    follower.close()


@pytest.fixture
def port(kmod: LibKmod) -> Iterator[str]:
    for name in ("rdma_rxe", "dummy"):
        load(kmod, name)
    for command in ("ip link add hp0 type dummy", "ip link set hp0 up", "rdma link add rxe7 type rxe netdev hp0"):
        subprocess.run(command.split(), check=True)
    yield "hp0"
    for command in ("rdma link delete rxe7", "ip link delete hp0"):
        subprocess.run(command.split(), check=True)


def test_a_port_that_goes_down_and_comes_back(port: str) -> None:
    host = open_host(1.0)
    watch = HealthWatch(host, SPEC)

    def verdict() -> Verdict:
        state = replace(NodeState(), rdma=read_rdma(host.files), netdevs=read_netdevs(host.files, {}))
        health = watch.examine(Reading(state))
        return next(one.verdict for one in health.findings if (one.subject.name, one.check) == ("rxe7/1", "port-state"))

    assert verdict() is Verdict.OK
    subprocess.run(["ip", "link", "set", port, "down"], check=True)
    assert verdict() is Verdict.WARNING
    subprocess.run(["ip", "link", "set", port, "up"], check=True)
    assert verdict() is Verdict.OK
    watch.stop()
    host.nvml.close()
    assert os.path.exists("/var/lib/nodeagent/history.db")
