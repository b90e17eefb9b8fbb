"""An agent that offers devices to pods on a simulated node, and the kubelet's device manager beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_process import PROFILE, Agent, agent_on
from kubelet_devices import DeviceManager
from nodeagent.host.control_client import ask
from nodeagent.simulation.node import SimulatedNode, open_node

PLUGINS = "var/lib/kubelet/device-plugins"


@dataclass
class Place:
    agent: Agent
    kubelet: DeviceManager
    node: SimulatedNode

    def uuid(self, index: int) -> str:
        return self.node.machine.gpus[index].uuid

    def told(self) -> str:
        return (
            f"{self.kubelet.resources}\n{ask(str(self.agent.root), 'GET', '/v1/offers')}\n{self.agent.log.read_text()}"
        )

    def write(self, name: str, content: object) -> None:
        """A JSON file in the node's /etc."""
        write(self.node, name, content)


@contextmanager
def place_with(file: str, etc: Mapping[str, object] | None = None) -> Iterator[Place]:
    """A kubelet that is there before the agent with this node file; short paths, since a socket's has a hundred
    characters at most. `etc` are JSON files below /etc.
    """
    with tempfile.TemporaryDirectory(prefix="dp") as found:
        node = open_node(PROFILE, f"{found}/n")
        directory = Path(found) / "n" / PLUGINS
        directory.mkdir(parents=True)
        for name, content in (etc or {}).items():
            write(node, name, content)
        kubelet = DeviceManager(str(directory))
        kubelet.start()
        with agent_on(Path(found), file) as agent:
            agent.wait_converged()
            yield Place(agent, kubelet, node)
        kubelet.stop()
        node.machine.close()


def write(node: SimulatedNode, name: str, content: object) -> None:
    (Path(node.directory) / "etc" / name).write_text(json.dumps(content))
