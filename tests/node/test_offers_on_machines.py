"""What is offered on simulated machines agrees with what their labels say, and NVLink, NUMA and NICs decide there."""

from __future__ import annotations

import pytest

from nodeagent.resources.gpu_offers import gpu_offers
from nodeagent.resources.gpu_preference import affinity_of, best_set
from nodeagent.resources.gpu_units import Around
from nodeagent.resources.labels import labels_of
from nodeagent.spec.reader import read_spec
from sim_node import sim_node

BASE = "modules: {nvidia: {}, rdma: {}}\ncdi: {}\n"
MIXED = "mig: [{mode: enabled, gpus: [0, 1], layout: all-balanced}]\n"
SINGLE = "mig: [{mode: enabled, gpus: all, devices: {1g: 2}}]\n"
SHARING = "sharing: {strategy: time-slicing, replicas: {gpu: 4}}"


@pytest.mark.parametrize(
    ("profile", "strategy", "layout", "sharing"),
    [
        ("gpu-server-4x-a100", "none", "", SHARING),
        ("gpu-server-4x-a100", "mixed", MIXED, SHARING),
        ("gpu-server-4x-a100", "single", SINGLE, ""),
        ("dgx-h100", "mixed", MIXED, ""),
    ],
)
def test_offers_and_labels_agree(tmp_path, profile, strategy, layout, sharing):
    keys = ", ".join(filter(None, (f"mig_strategy: {strategy}", sharing)))
    text = f"{BASE}{layout}labels: {{{keys}}}\nkubernetes: {{gpus: {{{keys}}}}}\n"
    with sim_node(tmp_path, profile, "in-process") as node:
        state = node.converge(text).state
        spec = read_spec(node.write(text))
    labels = labels_of(spec, state)
    offers = gpu_offers(spec, state, Around()).offers
    assert offers
    for offer in offers:
        short = offer.resource.partition("/")[2]
        said = int(labels[f"nvidia.com/{short}.count"])
        if short == "gpu" and strategy == "mixed":
            said -= 2  # gpu-feature-discovery also counts the divided ones, which no pod gets whole
        said *= int(labels[f"nvidia.com/{short}.replicas"])
        assert len(offer.devices) == said, offer.resource
        assert all(device.healthy and device.numa_nodes for device in offer.devices)
        assert all(len(device.id) <= 63 for device in offer.devices)


@pytest.mark.parametrize("profile", ["dgx-a100"])
def test_two_gpus_of_a_machine_are_near_each_other(tmp_path, profile):
    with sim_node(tmp_path, profile, "in-process") as node:
        state = node.converge(BASE).state
        links = {one.pci_address: one for one in node.host.nvml.nvlinks()}
    near = affinity_of(state, links)
    names = sorted(state.gpus)
    chosen = best_set(names, (), 2, near)
    assert near.pairs[tuple(sorted(chosen))] == max(near.pairs.values())
    nodes = {state.pci[state.gpus[one].pci_address].numa_node for one in chosen}
    assert len(nodes) == 1
