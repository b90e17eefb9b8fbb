"""The real machine put together: opening it touches nothing, and its facts are this machine's."""

from __future__ import annotations

import os

from nodeagent.host import paths
from nodeagent.host.link_facts import read_netdevs
from nodeagent.host.local import open_host


def test_the_local_host_is_this_machine() -> None:
    host = open_host(nvml_deadline_seconds=5.0)
    assert host.files.read(paths.PROC_OSRELEASE) == os.uname().release
    assert "lo" in read_netdevs(host.files, host.links.uses())
    assert host.nvml.pid() is None
    assert [found.pid for found in host.processes.describe([os.getpid()])] == [os.getpid()]
    assert host.services.show([]) == ()
    before = host.clock.monotonic()
    host.clock.sleep(0)
    assert host.clock.monotonic() >= before
    host.nvml.close()
