"""A thousand random stories of a node and its kubelet, in one process: no stale device, none given twice.

The node's truth is kept apart from what computes the offers: GPUs with their layouts, which are sick, hang or are gone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from gpu_world import gpu, node
from nodeagent.host.offering import LocalOffering
from nodeagent.kubernetes.plugin_api import HEALTHY, MESSAGES
from nodeagent.kubernetes.plugin_service import PluginService
from nodeagent.resources.gpu_offers import GpuOffers, gpu_offers
from nodeagent.resources.gpu_units import Around
from nodeagent.spec.reader import parse_spec
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict
from nodeagent.state.node import NodeState, Unknown
from nodeagent.state.processes import DeviceNode

SPEC = parse_spec(
    "version: 1\nkubernetes: {gpus: {mig_strategy: mixed, sharing: {strategy: time-slicing, "
    "replicas: {mig-1g.5gb: 2}}, gds: true, imex: {channels: [0], required: true}}}",
    "f",
)
LAYOUTS = ((), ("1g.5gb",), ("1g.5gb", "1g.5gb"), ("3g.20gb", "1g.5gb"), ("3g.20gb", "3g.20gb"))
SHARES = {"nvidia.com/mig-1g.5gb": 2}
CHANNEL = "/dev/nvidia-caps-imex-channels/channel0"


class RefusedError(Exception):
    pass


class Context:
    """A call's context that stays active."""

    def add_callback(self, _call) -> bool:
        return True

    def is_active(self) -> bool:
        return True

    def abort(self, _code, text):
        raise RefusedError(text)


@dataclass
class Story:
    """`made` counts layouts, so that MIG devices of a new one have new names."""

    chance: random.Random
    layouts: dict[int, tuple[str, ...]] = field(default_factory=lambda: dict.fromkeys(range(3), ()))
    made: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(3), 0))
    sick: set[str] = field(default_factory=set)
    hanging: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    channel: int = 0
    offering: LocalOffering = field(default_factory=LocalOffering)
    found: GpuOffers = field(default_factory=GpuOffers)
    services: dict[str, PluginService] = field(default_factory=dict)
    streams: dict[str, tuple[int, Iterator]] = field(default_factory=dict)
    listed: dict[str, dict[str, bool]] = field(default_factory=dict)
    pods: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    state: NodeState = field(default_factory=NodeState)
    known: set[int] = field(default_factory=set)

    def observe(self) -> None:
        """A look of the agent at the node."""
        there = [self._gpu(n) for n in self.layouts if n not in self.gone | self.hanging]
        unknown = tuple(Unknown(f"GPU GPU-{n}", "hangs") for n in sorted(self.hanging - self.gone))
        nodes = {CHANNEL: DeviceNode(CHANNEL, 505 + self.channel, 0)} if self.channel >= 0 else {}
        state = replace(node(*there), unknown=unknown, majors={"nvidia-caps-imex-channels": 505})
        self.state = replace(state, device_nodes={**state.device_nodes, **nodes})
        self.offering.settle()
        self.publish()

    def _gpu(self, n: int):
        found = gpu(n, *self.layouts[n])
        instances = tuple(
            replace(
                one,
                compute_instances=tuple(replace(ci, uuid=f"{ci.uuid}-{self.made[n]}") for ci in one.compute_instances),
            )
            for one in found.instances
        )
        return replace(found, instances=instances)

    def publish(self) -> None:
        findings = tuple(Finding(Subject(SubjectKind.GPU, one), "ecc", Verdict.FAILED, "bad") for one in self.sick)
        around = Around(health=Health(findings), withdrawn=self.offering.withdrawn)
        self.found = gpu_offers(SPEC, self.state, around, self.found.units)
        offers = {one.resource: one for one in self.found.offers}
        for resource, service in self.services.items():
            service.publish(offers.get(resource) or replace(service.offer, devices=()))
        self.services |= {name: PluginService(one) for name, one in offers.items() if name not in self.services}
        self.listen()

    def listen(self) -> None:
        """The kubelet reads what its streams have for it."""
        for resource, service in self.services.items():
            seen, stream = self.streams.get(resource) or (-1, service._watch(None, Context()))
            while seen != service._version:
                answer = next(stream)
                seen = service._version
                self.listed[resource] = {one.ID: one.health == HEALTHY for one in answer.devices}
            self.streams[resource] = (seen, stream)

    # What happens.

    def repartition(self) -> None:
        n = self.chance.choice(sorted(self.layouts))
        self.offering.withdraw(f"GPU-{n}")
        self.publish()
        assert not [one for one in self.healthy() if self.belongs(one, n)], "withdrawn before it changes"
        self.layouts[n] = self.chance.choice(LAYOUTS)
        self.made[n] += 1
        self.offering.restore(f"GPU-{n}")
        self.publish()
        assert not [one for one in self.healthy() if self.belongs(one, n)], "not before it was looked at"
        self.observe()

    def sickness(self) -> None:
        self.sick ^= {f"GPU-{self.chance.randrange(3)}"}
        self.publish()

    def hang(self) -> None:
        self.hanging ^= {self.chance.randrange(3)}
        self.observe()

    def lose(self) -> None:
        self.gone ^= {self.chance.randrange(3)}
        self.observe()

    def channel_changes(self) -> None:
        """The node of a channel that containers need goes, comes back, or leads to another driver."""
        self.channel = self.chance.choice([-1, 0, 0, 1])
        self.observe()

    def kubelet_restarts(self) -> None:
        """It forgets lists and streams; what pods have it knows from its checkpoint."""
        self.streams, self.listed = {}, {}
        self.listen()

    def plugin_crashes(self) -> None:
        self.services, self.streams, self.found, self.offering = {}, {}, GpuOffers(), LocalOffering()
        self.listed = {}
        self.observe()

    def pod(self) -> None:
        resource = self.chance.choice(sorted(self.listed) or [""])
        given = {one for devices in self.pods.values() for name, one in devices if name == resource}
        free = sorted({one for one, well in self.listed.get(resource, {}).items() if well} - given)
        size = self.chance.randint(1, 3)
        if len(free) < size:
            return
        wish = {"available_deviceIDs": free, "allocation_size": size}
        request = MESSAGES["PreferredAllocationRequest"](container_requests=[wish])
        chosen = list(self.services[resource]._prefer(request, Context()).container_responses[0].deviceIDs)
        assert len(set(chosen)) == size
        assert set(chosen) <= set(free)
        request = MESSAGES["AllocateRequest"](container_requests=[{"devices_ids": chosen}])
        answer = self.services[resource]._allocate(request, Context()).container_responses[0]
        told = set(answer.envs["NVIDIA_VISIBLE_DEVICES"].split(","))
        assert told == {one.partition("::")[0] for one in chosen}
        assert told <= self.really_there(), "nothing that is not there"
        assert (answer.envs["NVIDIA_IMEX_CHANNELS"], answer.envs["NVIDIA_GDS"]) == ("0", "enabled")
        self.pods[len(self.pods) + self.chance.randrange(1000)] = [(resource, one) for one in chosen]

    def pod_ends(self) -> None:
        if self.pods:
            del self.pods[self.chance.choice(sorted(self.pods))]

    def allocation_of_what_is_unhealthy(self) -> None:
        for resource, devices in self.listed.items():
            for one, well in devices.items():
                if not well:
                    request = MESSAGES["AllocateRequest"](container_requests=[{"devices_ids": [one]}])
                    with pytest.raises(RefusedError, match="not healthy"):
                        self.services[resource]._allocate(request, Context())

    # What must hold.

    def healthy(self) -> set[str]:
        return {one for devices in self.listed.values() for one, well in devices.items() if well}

    def belongs(self, number: str, n: int) -> bool:
        return number == f"GPU-{n}" or number.startswith(f"MIG-{n}-")

    def units(self, n: int) -> dict[str, str]:
        """Resource by device of one GPU, by the words of the mixed strategy."""
        if not self.layouts[n]:
            return {f"GPU-{n}": "nvidia.com/gpu"}
        rows = enumerate(self.layouts[n])
        return {f"MIG-{n}-{place}-{self.made[n]}": f"nvidia.com/mig-{profile}" for place, profile in rows}

    def really_there(self) -> set[str]:
        return {one for n in self.layouts if n not in self.gone | self.hanging for one in self.units(n)}

    def check(self) -> None:
        expected: dict[str, set[str]] = {}
        for n in set(self.layouts) - self.gone - self.hanging:
            for one, resource in self.units(n).items():
                if f"GPU-{n}" not in self.sick and self.channel == 0:
                    shares = SHARES.get(resource, 1)
                    ids = {one} if shares == 1 else {f"{one}::{share}" for share in range(shares)}
                    expected.setdefault(resource, set()).update(ids)
        told = {name: {one for one, well in devices.items() if well} for name, devices in self.listed.items()}
        assert {name: found for name, found in told.items() if found} == expected
        every = [pair for devices in self.pods.values() for pair in devices]
        assert len(every) == len(set(every)), "given twice"


EVENTS = (
    Story.repartition, Story.sickness, Story.hang, Story.lose, Story.kubelet_restarts, Story.plugin_crashes,
    Story.channel_changes, Story.pod, Story.pod, Story.pod, Story.pod_ends, Story.allocation_of_what_is_unhealthy,
)  # fmt: skip


@pytest.mark.parametrize("block", range(10))
def test_a_thousand_stories(block):
    for number in range(100):
        story = Story(random.Random(100 * block + number))
        story.observe()
        for _ in range(12):
            story.chance.choice(EVENTS)(story)
            story.check()
