"""One cluster for all tests; its node is a simulated server with four A100."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent_process import PROFILE
from cluster.kube import Cluster, running, world
from container_world import DRIVER_ROOT
from nodeagent.simulation.driver_installation import install_driver
from nodeagent.simulation.node import open_node


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    place = world()
    node = open_node(PROFILE, str(place / "n"))
    install_driver(node.directory + DRIVER_ROOT, node.profile.driver_version)
    (place / "w").mkdir()
    with running(place / "w", place / "n") as cluster:
        yield cluster
    node.machine.close()
