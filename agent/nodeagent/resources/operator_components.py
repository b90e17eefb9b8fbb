"""What the agent leaves to each component that a GPU Operator runs on the node, by its label gpu.deploy.*; pure.

Source: NVIDIA/gpu-operator controllers/state_manager.go (the labels of each kind of workload) and assets (the node
selectors), NVIDIA/k8s-driver-manager cmd/driver-manager (paused values). The components without an entry here do what
the agent does not: dcgm is a client of the GPUs as any other program, node-status-exporter has names that the agent
only uses where the file says so, `client` and `nvsm` are workloads, and vGPUs, VFIO devices for pods and confidential
computing are given by the operator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from nodeagent.spec.containers import Component
from nodeagent.spec.schema import NodeSpec

DEPLOY = "nvidia.com/gpu.deploy."
PAUSED = "paused-for-driver-upgrade"


def runs_with_operator(component: str, labels: Mapping[str, str]) -> bool:
    """Whether the operator runs this component here; one that is paused comes back, so it is still the operator's."""
    if labels.get(f"{DEPLOY}operands") == "false":
        return False
    return labels.get(f"{DEPLOY}{component}", "") in ("true", PAUSED)


def give_way(spec: NodeSpec, labels: Mapping[str, str]) -> NodeSpec:
    """The node file in which auto means off for what the operator does here; on and off stay as they are."""
    for component, left in LEFT_TO.items():
        if runs_with_operator(component, labels):
            spec = left(spec)
    return spec


def _off(component: Component) -> Component:
    return Component.OFF if component is Component.AUTO else component


def _runtimes(spec: NodeSpec) -> NodeSpec:
    """The toolkit writes CDI files for GPUs alone, and no configuration of Podman."""
    if spec.cdi is not None:
        spec = replace(spec, cdi=replace(spec.cdi, gpus=_off(spec.cdi.gpus), management=_off(spec.cdi.management)))
    if spec.runtimes is not None:
        one = spec.runtimes
        one = replace(one, containerd=_off(one.containerd), crio=_off(one.crio), docker=_off(one.docker))
        spec = replace(spec, runtimes=one)
    return spec


def _labels(spec: NodeSpec) -> NodeSpec:
    if spec.labels is None:
        return spec
    return replace(spec, labels=replace(spec.labels, gpus=_off(spec.labels.gpus)))


def _offers(spec: NodeSpec) -> NodeSpec:
    if spec.kubernetes is None:
        return spec
    gpus = spec.kubernetes.gpus
    return replace(spec, kubernetes=replace(spec.kubernetes, gpus=replace(gpus, offer=_off(gpus.offer))))


def _driver(spec: NodeSpec) -> NodeSpec:
    if spec.modules is None or spec.modules.nvidia is None:
        return spec
    nvidia = spec.modules.nvidia
    return replace(spec, modules=replace(spec.modules, nvidia=replace(nvidia, manage=_off(nvidia.manage))))


def _metrics(spec: NodeSpec) -> NodeSpec:
    return replace(spec, metrics=replace(spec.metrics, dcgm=_off(spec.metrics.dcgm)))


def _ready_files(spec: NodeSpec) -> NodeSpec:
    if spec.validation is None:
        return spec
    return replace(spec, validation=replace(spec.validation, ready_files=_off(spec.validation.ready_files)))


def _sandbox(spec: NodeSpec) -> NodeSpec:
    """Whoever runs vfio-manager has the GPUs moved by it; section `sandbox` has no auto."""
    return replace(spec, sandbox=None)


LEFT_TO: Mapping[str, Callable[[NodeSpec], NodeSpec]] = {
    "container-toolkit": _runtimes,
    "gpu-feature-discovery": _labels,
    "device-plugin": _offers,
    "dra-driver": _offers,  # two who hand out the same GPUs would give them away twice
    "driver": _driver,
    "vgpu-manager": _driver,  # the vGPU host driver
    "dcgm-exporter": _metrics,
    "dcgm-exporter-dra": _metrics,
    "operator-validator": _ready_files,
    "sandbox-validator": _ready_files,
    "dra-validator": _ready_files,
    "vfio-manager": _sandbox,
}
