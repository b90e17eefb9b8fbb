"""A sampler on a host that has just been observed, without an agent around it."""

from __future__ import annotations

import threading

from nodeagent.host.ports import Host
from nodeagent.plan.convergence import Outcome
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.supervisor.choices import Choices
from nodeagent.supervisor.sampler import Sampler
from nodeagent.supervisor.status import Identity, Pass, Status


def observed(host: Host, choices: Choices) -> Sampler:
    """It knows the host as it is now."""
    look = Pass(Outcome(Observer(host).observe(()), Plan()), ("test",), 0.0, 0.1)
    status = Status(Identity(1, "node1", "simulated", "", 0.0), last=look)
    return Sampler(host, threading.Lock(), lambda: status, 1.0, choices)
