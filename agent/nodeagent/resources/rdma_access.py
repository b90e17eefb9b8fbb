"""Whether programs can use RDMA: the modes of the device nodes, and how much memory they may lock; pure.

Sources: drivers/infiniband/core (uverbs_main.c, ucma.c: mode 0666; user_mad.c: 0600), systemd.exec(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nodeagent.host.paths import DEV_INFINIBAND
from nodeagent.resources.base import Step
from nodeagent.resources.device_nodes import MakeDeviceNode
from nodeagent.state.node import NodeState
from nodeagent.state.processes import MemoryLock
from nodeagent.state.things import device_node

UNIT = "roce/access"
EVERYONE = 0o666
WANTED = "every user may use rdma"
FOR_USERS = re.compile(rf"{DEV_INFINIBAND}/(rdma_cm|uverbs\d+)")
# Services that start jobs; what they start inherits their limit.
JOB_SERVICES = (
    "slurmd.service",
    "containerd.service",
    "docker.service",
    "crio.service",
    "kubelet.service",
    "k3s.service",
    "rke2-agent.service",
    "pbs.service",
    "ssh.service",
)


@dataclass(frozen=True)
class Finding:
    """What keeps programs from using RDMA, and what would help."""

    subject: str
    problem: str
    advice: str


def node_steps(state: NodeState) -> tuple[Step, ...]:
    """Give the nodes that programs need the mode that the kernel gives them; who owns them stays."""
    return tuple(
        MakeDeviceNode(
            subject=device_node(path),
            unit=UNIT,
            reason=WANTED,
            major=node.major,
            minor=node.minor,
            mode=node.mode | EVERYONE,
            uid=node.uid,
            gid=node.gid,
            is_new=False,
        )
        for path, node in sorted(state.device_nodes.items())
        if FOR_USERS.fullmatch(path) and node.mode & EVERYONE != EVERYONE
    )


def findings(state: NodeState, locks: Iterable[MemoryLock]) -> Iterator[Finding]:
    """Nodes that are missing or closed, limits that are too low to register a message buffer."""
    nodes = [path for path in state.device_nodes if FOR_USERS.fullmatch(path)]
    if state.rdma and not any(path.endswith("/rdma_cm") for path in nodes):
        yield Finding(f"{DEV_INFINIBAND}/rdma_cm", "it is missing", "load rdma_ucm, as modules.rdma does")
    if len([path for path in nodes if "/uverbs" in path]) < len(state.rdma):
        yield Finding(
            f"{DEV_INFINIBAND}/uverbsN", "there are fewer than devices", "load ib_uverbs, as modules.rdma does"
        )
    for step in node_steps(state):
        mode = state.device_nodes[step.subject.name].mode
        yield Finding(step.subject.name, f"only some users may use it (mode {mode:04o})", "set roce.user_access: true")
    for lock in locks:
        if lock.soft_bytes is not None:
            problem = f"its jobs may lock {lock.soft_bytes // 1024} KiB of memory (process {lock.pid})"
            advice = f"write LimitMEMLOCK=infinity below [Service] by `systemctl edit {lock.unit}`, and restart it"
            yield Finding(lock.unit, problem, advice)
