"""Health without a running agent: two looks a second apart, and the whole kernel log of this boot. Writes nothing."""

from __future__ import annotations

from dataclasses import replace

from nodeagent.errors import HostError
from nodeagent.health.monitor import Before, Monitor
from nodeagent.host.history import read_memory
from nodeagent.host.kernel_follow import KmsgFollower, LogBatch
from nodeagent.host.link_facts import read_rdma
from nodeagent.host.ports import Host
from nodeagent.plan.convergence import goal_of, survey
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import GpuSample
from nodeagent.state.health import Health
from nodeagent.state.node import NodeState
from nodeagent.supervisor.health_facts import Reading, observe
from nodeagent.supervisor.log_tail import joined

APART_SECONDS = 1.0


def look(observer: Observer, spec: NodeSpec) -> Health:
    """The verdicts as of now; what needs a longer watch than a second is judged by what it shows in that time."""
    host = observer.host
    state, plan = survey(observer, goal_of(spec))
    section = replace(spec.health, damping=replace(spec.health.damping, bad_cycles=1, hold_seconds=0.0))
    memory = read_memory(host.files.root)
    monitor = Monitor(section, Before(memory.since, memory.learned))
    _cycle(host, monitor, (state, plan), spec)
    host.clock.sleep(APART_SECONDS)
    return _cycle(host, monitor, (state, plan), spec, with_log=False)


def _cycle(
    host: Host, monitor: Monitor, seen: tuple[NodeState, Plan], spec: NodeSpec, *, with_log: bool = True
) -> Health:
    state, plan = seen
    now = replace(state, rdma=read_rdma(host.files))
    trouble = ""
    samples: tuple[GpuSample, ...] = ()
    try:
        samples = host.nvml.samples() if "nvidia" in state.modules else ()
    except HostError as error:
        trouble = str(error)
    reading = Reading(now, samples, host.nvml.faults(), trouble, plan, state)
    batch, log_trouble = _whole_log(host)
    observation = replace(observe(host, reading, spec.health.disks), log_trouble=log_trouble)
    return monitor.cycle(observation, batch if with_log else LogBatch()).health


def _whole_log(host: Host) -> tuple[LogBatch, str]:
    """Everything of this boot that is still there, and why it cannot be read, "" if it can."""
    follower = KmsgFollower(host.files.root)
    try:
        batch = follower.read()
        while (more := follower.read()).records or more.foreign:
            batch = joined(batch, more)
    except HostError as error:
        return LogBatch(), str(error)
    finally:
        follower.close()
    return batch, ""
