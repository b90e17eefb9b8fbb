"""The desk begins when there is a kubelet, and not while steps are taken."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest

from gpu_world import gpu, node
from kubelet_devices import DeviceManager, until
from nodeagent.host.offering import LocalOffering
from nodeagent.spec.reader import parse_spec
from nodeagent.state.health import Health
from nodeagent.supervisor.offer_desk import OfferDesk
from sim_node import sim_node

GPU = "nvidia.com/gpu"


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="dp") as found:
        yield Path(found)


def test_it_does_not_begin_while_steps_are_taken_nor_without_a_kubelet(place, tmp_path):
    spec = parse_spec(f"version: 1\nkubernetes: {{plugin_directory: {place}}}", "f")
    state, hardware = node(gpu(0), gpu(1)), threading.Lock()
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as sim:
        offering: LocalOffering = sim.host.offering
        desk = OfferDesk(sim.host, spec, lambda: state, Health, hardware)
        desk.look()
        assert offering.offered == frozenset(), "no kubelet"
        kubelet = DeviceManager(str(place))
        kubelet.start()
        with hardware:
            desk.look()
            assert offering.offered == frozenset()
        desk.look()
        assert offering.offered == {"GPU-0", "GPU-1"}, "announced before anybody else takes the hardware"
        until(lambda: kubelet.healthy(GPU) == {"GPU-0", "GPU-1"})
        offering.withdraw("GPU-0")
        until(lambda: kubelet.healthy(GPU) == {"GPU-1"})
        offering.restore("GPU-0")
        desk.look()
        assert kubelet.healthy(GPU) == {"GPU-1"}, "not before the next look at the node"
        state = node(gpu(0), gpu(1))
        desk.look()
        until(lambda: kubelet.healthy(GPU) == {"GPU-0", "GPU-1"})
        desk.take_over(parse_spec("version: 1", "f"))
        desk.look()
        assert offering.offered == frozenset()
        until(lambda: not kubelet.healthy(GPU))
        kubelet.stop()
