"""Puts together what health looks at: the observed node, the last samples, and a few files of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError
from nodeagent.health.observation import Drift, Note, Observation, Unanswered
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.ports import GpuFault, Host
from nodeagent.host.topology_facts import is_gone, read_link, read_topology
from nodeagent.plan.model import Plan
from nodeagent.resources.topology_findings import redirected_peers, unknown_numa
from nodeagent.state.gids import Gid
from nodeagent.state.gpu import GpuSample
from nodeagent.state.node import NodeState
from nodeagent.state.rails import gpus_of, nics_of
from nodeagent.state.vitals import ClockFacts, DiskFacts

HANGS = "no answer within"  # a call that did not come back, in the words of the NVML port
SECTIONS = ("modules", "qos", "roce", "links", "mig", "sriov")


@dataclass(frozen=True)
class Reading:
    """What the sampler has of one round. `plan` is that of the last pass, None before there was one.

    `driver_trouble` says why NVML could not be asked at all.
    """

    state: NodeState
    samples: Sequence[GpuSample] = ()
    faults: Sequence[GpuFault] = ()
    driver_trouble: str = ""
    plan: Plan | None = None
    observed: NodeState = field(default_factory=NodeState)


def observe(host: Host, reading: Reading, disks: Iterable[str]) -> Observation:
    """One look; whatever cannot be read is in it as a text that says why."""
    state = _with_uses(reading)
    gpus = tuple(found.address for found in gpus_of(state))
    gone = tuple(address for address in gpus if is_gone(host.files, address))
    present = tuple(address for address in gpus if address not in gone)
    functions = (*present, *(found.address for found in nics_of(state)))
    return Observation(
        now=time.time(),
        node=state,
        samples={sample.uuid: sample for sample in reading.samples},
        unanswered=_unanswered(reading),
        driver_trouble=reading.driver_trouble,
        pcie={address: read_link(host.files, address) for address in functions},
        gpu_pci=gpus,
        gone_pci=gone,
        clock=_clock(host),
        disks={path: _disk(host, path) for path in disks},
        drift=tuple(_drift(reading.plan)) if reading.plan else (),
        plan_known=reading.plan is not None,
        notes=tuple(_notes(host, state)),
        gids=_gids(host, state),
    )


def _unanswered(reading: Reading) -> Mapping[str, Unanswered]:
    """GPUs that this round could not read, or the last pass, which asks for more than a round does."""
    prefix = "GPU "
    unread = {
        one.what.removeprefix(prefix): Unanswered(one.reason, HANGS in one.reason)
        for one in reading.observed.unknown
        if one.what.startswith(prefix)
    }
    return unread | {fault.uuid: Unanswered(fault.reason, fault.hangs) for fault in reading.faults}


def _with_uses(reading: Reading) -> NodeState:
    """Interfaces as they are now, with what the last pass found to stand on them."""
    known = reading.observed.netdevs
    netdevs = {
        name: replace(found, uses=known[name].uses) if name in known and not found.uses else found
        for name, found in reading.state.netdevs.items()
    }
    return replace(reading.state, netdevs=netdevs)


def _clock(host: Host) -> ClockFacts | str:
    try:
        return host.vitals.clock()
    except HostError as error:
        return str(error)


def _disk(host: Host, path: str) -> DiskFacts | str:
    try:
        return host.vitals.disk(path)
    except HostError as error:
        return str(error)


def _gids(host: Host, state: NodeState) -> Mapping[str, tuple[Gid, ...]]:
    found = {}
    for device in state.rdma.values():
        for port in device.ports:
            try:
                found[f"{device.name}/{port.port}"] = read_gids(host.files, device.name, port.port)
            except HostError:
                continue  # the device is going; its port is looked at by its state
    return found


def _drift(plan: Plan) -> Iterator[Drift]:
    """What would be done and what stands in the way of it, under the section of the node file it belongs to."""
    steps = [step for transition in plan.transitions for step in transition.acts]
    steps += [entry.step for entry in plan.blocked]
    for unit, name, text in (
        *((step.unit, step.subject.name, str(step)) for step in steps),
        *((one.unit, one.subject.name, one.problem) for one in plan.obstacles if not one.waits),
    ):
        topic = unit.partition("/")[0]
        if topic in SECTIONS:
            yield Drift(topic, name, text)


def _notes(host: Host, state: NodeState) -> Iterator[Note]:
    topology = read_topology(host.files, (*gpus_of(state), *nics_of(state)))
    for topic, rule in (("acs", redirected_peers), ("numa", unknown_numa)):
        for found in rule(state, topology):
            yield Note(topic, found.subject, found.problem, found.advice)
