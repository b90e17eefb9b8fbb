"""Telemetry for the verbs `metrics` and `top`: from the running agent, else read directly."""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nodeagent.cli.target import Target, running_simulations, target_of
from nodeagent.errors import GoneError
from nodeagent.host.control_client import agent_listens, ask


def running_agent(arguments: argparse.Namespace) -> Target | None:
    """The node asked for, if an agent runs on it; without --simulate also the only simulated one."""
    target = target_of(arguments)
    candidates = [target] if arguments.simulate else [target, *running_simulations()]
    return next((candidate for candidate in candidates if agent_listens(candidate.root)), None)


def from_agent(target: Target, path: str) -> dict[str, Any] | None:
    """A document of the running agent, None if it went away or has nothing yet."""
    try:
        return ask(target.root, "GET", path) or None
    except GoneError:
        return None  # a socket that a killed agent left behind


@contextmanager
def direct(target: Target) -> Iterator[Callable[[], Any]]:
    """A function that reads the node once more and returns the sampler that did. Ends the NVML worker afterwards."""
    from nodeagent.plan.convergence import Outcome
    from nodeagent.plan.model import Plan
    from nodeagent.supervisor.sampler import Sampler
    from nodeagent.supervisor.status import Identity, Pass, Status

    with target.observer() as observer:
        started = time.time()
        state = observer.add_holders(observer.observe(()), ())
        identity = Identity(os.getpid(), socket.gethostname(), target.simulated, "", started)
        look = Pass(Outcome(state, Plan()), ("asked",), started, time.time() - started)
        status = Status(identity, last=look)
        sampler = Sampler(observer.host, threading.Lock(), lambda: status, 1.0)

        def read() -> Any:
            sampler.take()
            return sampler

        yield read
