"""Metrics under the names of the GPU operator's node-status-exporter, so that its alerts go on working.

It checks for files that its other containers write; here the same names say what the agent sees of the machine itself.
What the agent does not know is left out, as whether CUDA and container runtimes work before that was validated.
Source: NVIDIA/gpu-operator cmd/nvidia-validator/metrics.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels
from nodeagent.state.proofs import Outcome, Proof

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.metrics.view import View

_NVIDIA = "10de"
_PROOFS = {Proof.CUDA: "node_cuda_ready", Proof.TOOLKIT: "node_toolkit_ready", Proof.PLUGIN: "node_plugin_ready"}


def operator_families(view: View) -> Iterator[tuple[Family, list[tuple[str, float]]]]:
    node = labels(node=view.agent.hostname)
    for name, text, value in _values(view):
        if value is not None:
            yield Family(f"gpu_operator_{name}", Kind.GAUGE, text), [(node, value)]


def _values(view: View) -> Iterator[tuple[str, str, float | None]]:
    answered = {sample.uuid for sample in view.samples}
    works = view.node.driver is not None and bool(answered) and not view.agent.gpu_faults
    on_bus = sum(function.vendor == _NVIDIA for function in view.node.pci.values())
    yield "node_metrics_ready_ts_seconds", "When the agent started (Unix time).", view.agent.start_seconds
    yield "node_driver_ready", "Whether the NVIDIA driver is loaded and all GPUs answer.", works
    yield "node_driver_validation", "Whether the last reading of all GPUs succeeded.", works
    yield (
        "node_driver_validation_last_success_ts_seconds",
        "When GPUs were last read (Unix time).",
        view.agent.telemetry_seconds,
    )
    yield "nvidia_pci_devices_total", "PCI functions of NVIDIA.", on_bus
    for proof, name in _PROOFS.items():
        outcomes = {one.outcome for one in view.validation.of(proof)} - {Outcome.ABSENT}
        if outcomes:
            yield name, f"Whether {proof.value} was proved to work.", outcomes == {Outcome.PASSED}
    if {one.outcome for one in view.validation.of(Proof.PLUGIN)} - {Outcome.ABSENT} == {Outcome.PASSED}:
        name = "node_device_plugin_validation_last_success_ts_seconds"
        yield name, "When the device plugin was last proved to work (Unix time).", view.validation.at
    yield from _pods(view)


def _pods(view: View) -> Iterator[tuple[str, str, float | None]]:
    """What the kubelet says: with devices to hand out some plugin works, where nobody has proved it further."""
    devices = view.pods.allocatable_gpus if view.pods is not None else None
    yield "node_device_plugin_devices_total", "GPU devices that the kubelet can hand out.", devices
    if not {one.outcome for one in view.validation.of(Proof.PLUGIN)} - {Outcome.ABSENT} and devices is not None:
        yield _PROOFS[Proof.PLUGIN], "Whether the kubelet has GPU devices to hand out.", devices > 0
