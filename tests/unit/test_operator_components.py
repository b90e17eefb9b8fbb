"""Every gpu.deploy label of the GPU Operator: exactly what the agent then leaves to it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from nodeagent.resources.operator_components import DEPLOY, LEFT_TO, give_way
from nodeagent.spec.containers import Cdi, Component, Runtimes
from nodeagent.spec.kubernetes import Kubernetes
from nodeagent.spec.labels import Labels
from nodeagent.spec.sandbox import Sandbox
from nodeagent.spec.schema import Metrics, Modules, NodeSpec, NvidiaModules
from nodeagent.spec.validation import Validation

EVERYTHING = NodeSpec(
    version=1,
    modules=Modules(nvidia=NvidiaModules()),
    cdi=Cdi(management=Component.AUTO),
    runtimes=Runtimes(),
    labels=Labels(api=True, follow=True),
    kubernetes=Kubernetes(),
    sandbox=Sandbox(),
    validation=Validation(),
)
READY, OFFER, DRIVER = {"validation.ready_files"}, {"kubernetes.gpus.offer"}, {"modules.nvidia.manage"}
# NVIDIA/gpu-operator controllers/state_manager.go: the labels of container, vm-passthrough, vm-vgpu and DRA nodes
EXPECTED: dict[str, set[str]] = {
    "driver": DRIVER,
    "container-toolkit": {
        "cdi.gpus",
        "cdi.management",
        "runtimes.containerd",
        "runtimes.crio",
        "runtimes.docker",
    },
    "device-plugin": OFFER,
    "gpu-feature-discovery": {"labels.gpus"},
    "dcgm": set(),
    "dcgm-exporter": {"metrics.dcgm"},
    "node-status-exporter": set(),
    "operator-validator": READY,
    "mig-manager": set(),
    "client": set(),
    "nvsm": set(),
    "sandbox-device-plugin": set(),
    "kata-sandbox-device-plugin": set(),
    "sandbox-validator": READY,
    "vfio-manager": {"sandbox"},
    "kata-manager": set(),
    "cc-manager": set(),
    "vgpu-manager": DRIVER,
    "vgpu-device-manager": set(),
    "dra-driver": OFFER,
    "dra-validator": READY,
    "dcgm-dra": set(),
    "dcgm-exporter-dra": {"metrics.dcgm"},
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a node file with its value."""
    if not is_dataclass(value):
        yield path, value
        return
    for one in fields(value):
        yield from leaves(getattr(value, one.name), f"{path}.{one.name}".lstrip("."))


def changed(before: NodeSpec, after: NodeSpec) -> set[str]:
    """Keys with another value; a section that is gone is itself the key."""
    old = dict(leaves(before))
    return {path for path, value in leaves(after) if path not in old or old[path] != value}


def test_every_component_with_an_effect_is_one_of_the_operators() -> None:
    assert set(LEFT_TO) == {name for name, keys in EXPECTED.items() if keys}


@pytest.mark.parametrize("component", EXPECTED)
@pytest.mark.parametrize("value", ["true", "paused-for-driver-upgrade"])
def test_exactly_this_is_left_to_a_component_that_runs(component: str, value: str) -> None:
    after = give_way(EVERYTHING, {f"{DEPLOY}{component}": value})
    assert changed(EVERYTHING, after) == EXPECTED[component]
    values = dict(leaves(after))
    assert all(values[path] is Component.OFF for path in EXPECTED[component] - {"sandbox"})


@pytest.mark.parametrize("component", EXPECTED)
@pytest.mark.parametrize("value", ["false", "", "pre-installed", "pre-installed_paused-for-driver-upgrade", "no"])
def test_a_component_that_does_not_run_leaves_everything_to_the_agent(component: str, value: str) -> None:
    assert give_way(EVERYTHING, {f"{DEPLOY}{component}": value}) == EVERYTHING
    assert give_way(EVERYTHING, {f"{DEPLOY}{component}": "true", f"{DEPLOY}operands": "false"}) == EVERYTHING


@pytest.mark.parametrize("word", [Component.ON, Component.OFF])
def test_what_the_file_says_outright_counts(word: Component) -> None:
    spec = NodeSpec(
        version=1, metrics=Metrics(dcgm=word), validation=Validation(ready_files=word), labels=Labels(gpus=word)
    )
    assert give_way(spec, {f"{DEPLOY}{component}": "true" for component in EXPECTED}) == spec


def test_what_the_file_has_no_section_for_is_no_matter() -> None:
    bare = NodeSpec(version=1, modules=Modules())
    after = give_way(bare, {f"{DEPLOY}{component}": "true" for component in EXPECTED})
    assert changed(bare, after) == {"metrics.dcgm"}
