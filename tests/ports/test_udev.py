"""Kernel events as they arrive on a real netlink socket, and the watch where there is none."""

from __future__ import annotations

import os
import subprocess
import sys

ARRIVING = """
import select, subprocess
from nodeagent.host.udev import UdevWatch

watch = UdevWatch()
assert watch.degraded == "", watch.degraded
assert watch.drain() == ()
subprocess.run(["ip", "link", "add", "ens1", "type", "veth", "peer", "name", "ens2"], check=True)
assert select.select([watch.descriptor], [], [], 30)[0]
events = watch.drain()
assert "add net ens1" in events and "add net ens2" in events, events
assert not [event for event in events if " queues " in event], events
assert watch.drain() == ()
watch.close()
assert watch.descriptor is None
"""
WITHOUT_SOCKETS = """
import resource
import pyudev
from nodeagent.host.udev import UdevWatch

pyudev.Context()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
watch = UdevWatch()
assert watch.degraded.startswith("no kernel events: "), watch.degraded
assert (watch.descriptor, watch.drain()) == (None, ())
watch.close()
"""


def _run(*command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_interfaces_that_come_are_announced() -> None:
    namespaces = ["--net"] if os.geteuid() == 0 else ["--net", "--user", "--map-root-user"]
    _run("unshare", *namespaces, sys.executable, "-W", "error", "-c", ARRIVING)


def test_without_a_socket_the_watch_is_degraded_with_a_reason() -> None:
    _run(sys.executable, "-W", "error", "-c", WITHOUT_SOCKETS)
