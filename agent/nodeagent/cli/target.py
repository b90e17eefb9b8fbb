"""Which node a command is about: this machine, or a simulated one in a directory of its own."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from nodeagent.cli.completing import offer, profile_names
from nodeagent.errors import NodeAgentError, UsageError
from nodeagent.host.paths import NODE_FILE

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.plan.observing import Observer
    from nodeagent.spec.schema import NodeSpec

EXAMPLE_OF = {"gpu-server-4x-a100": "small-4-gpu"}  # examples are named for the node, profiles for the machine


class Target(NamedTuple):
    """A node: `root` is where its file tree stands, `simulated` the profile or ""."""

    root: str
    simulated: str = ""

    @property
    def title(self) -> str:
        """How a headline names it."""
        return f"simulated node {self.simulated}" if self.simulated else f"node {socket.gethostname()}"

    @property
    def default_file(self) -> str:
        return self.root.rstrip("/") + NODE_FILE

    def path_of(self, path: str) -> str:
        """Where a path of the node file really is; empty stays empty."""
        return self.root.rstrip("/") + path if path else ""

    def open(self, nvml_deadline_seconds: float | None = None) -> Host:
        """The ports of the node. Creates the simulated node on first use; the deadline is by default the schema's."""
        if nvml_deadline_seconds is None:
            from nodeagent.spec.schema import Loop

            nvml_deadline_seconds = Loop().nvml_deadline_seconds
        if self.simulated:
            from nodeagent.simulation.node import open_node

            return open_node(self.simulated, self.root).host(deadline_seconds=nvml_deadline_seconds)
        from nodeagent.host.local import open_host

        return open_host(nvml_deadline_seconds)

    def make(self) -> None:
        """Create a simulated node that is not there yet, before anything else is written where it is to be.

        HostError when the directory holds something else.
        """
        if self.simulated:
            from nodeagent.simulation.node import open_node

            open_node(self.simulated, self.root).machine.close()

    def statistics(self) -> Callable[[Sequence[str]], Mapping[str, Mapping[str, int]]]:
        """What network drivers count by themselves: a function of the interfaces' names."""
        if self.simulated:
            from nodeagent.simulation.driver_statistics import SimulatedStatistics
            from nodeagent.simulation.node import open_node

            return SimulatedStatistics(open_node(self.simulated, self.root).kernel)
        from nodeagent.host.ethtool_facts import DriverStatistics
        from nodeagent.metrics.netdev_metrics import is_wanted

        return DriverStatistics(is_wanted)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the node's lock (see `node_lock`)."""
        from nodeagent.host.lock import node_lock

        self.make()
        with node_lock(self.root):
            yield

    @contextmanager
    def observer(self, nvml_deadline_seconds: float | None = None) -> Iterator[Observer]:
        """The node ready to be observed; ends the NVML worker afterwards."""
        from nodeagent.kubernetes.pod_asking import PodAsker
        from nodeagent.plan.observing import Observer

        host = self.open(nvml_deadline_seconds)
        try:
            observer = Observer(host, control_address=_control_address(self))
            observer.pods = PodAsker(self.path_of)
            yield observer
        finally:
            host.nvml.close()


def _control_address(target: Target) -> str:
    """The node's own address in the ssh session that gave the command (sshd(8), SSH_CONNECTION), "" without one."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 and not target.simulated else ""


def add_target_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which node")
    profile = group.add_argument("--simulate", metavar="PROFILE", default="", help="a simulated node, such as dgx-a100")
    offer(profile, profile_names)
    group.add_argument(
        "--simulate-dir",
        metavar="DIR",
        default="",
        help="directory of the simulated node (default: one per user and profile)",
    )


def add_file_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--file", default="", help=f"the node file (default: {NODE_FILE}; simulated: the example of the profile)"
    )


def target_of(arguments: argparse.Namespace) -> Target:
    if not arguments.simulate:
        if arguments.simulate_dir:
            raise UsageError("--simulate-dir needs --simulate PROFILE")
        return Target("/")
    root = arguments.simulate_dir or default_directory(arguments.simulate)
    return Target(os.path.abspath(root), arguments.simulate)


def default_directory(profile: str) -> str:
    """Short, because a unix socket below it may have 107 bytes at most."""
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/nodeagent-{os.getuid()}"  # noqa: S108 - per user, mode 0700
    if not os.environ.get("XDG_RUNTIME_DIR"):
        os.makedirs(base, mode=0o700, exist_ok=True)
        if os.stat(base).st_uid != os.getuid():
            raise UsageError(f"use {base}: it belongs to another user; name a directory with --simulate-dir")
    return f"{base}/nodeagent-{profile}"


def agents_nvml(target: Target) -> tuple[int, ...]:
    """PID of the NVML worker of an agent that runs on the node: for a one-shot command it is ours, not in the way."""
    from nodeagent.host.control_client import agent_listens, ask

    if not agent_listens(target.root):
        return ()
    try:
        pid = ask(target.root, "GET", "/v1/status").get("nvmlPid")
    except NodeAgentError:
        return ()  # it may not be asked, or is ending: then its worker shows as what it is
    return (pid,) if pid else ()


def running_simulations() -> tuple[Target, ...]:
    """Simulated nodes of this user that an agent runs on, so that `status` finds the only one by itself."""
    from nodeagent.host.control_client import agent_listens

    base, prefix = os.path.dirname(default_directory("")), "nodeagent-"
    names = sorted(os.listdir(base)) if os.path.isdir(base) else []
    nodes = (Target(f"{base}/{name}", name.removeprefix(prefix)) for name in names if name.startswith(prefix))
    return tuple(target for target in nodes if agent_listens(target.root))


def spec_of(arguments: argparse.Namespace, target: Target) -> tuple[NodeSpec, str]:
    """The node file and its path; a simulated node gets its profile's example when it has no file yet."""
    from nodeagent.spec.reader import read_spec

    path = arguments.file or target.default_file
    if target.simulated and not arguments.file and not os.path.exists(path):
        _write_example(target, path)
    return read_spec(path), os.path.abspath(path)


def _write_example(target: Target, path: str) -> None:
    from nodeagent.spec.example import example_text

    target.make()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    text = example_text(EXAMPLE_OF.get(target.simulated, target.simulated))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
