"""The latest telemetry as a document with stable keys: for `nodeagent top`, the control socket and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nodeagent.metrics.rdma_metrics import parse_rate
from nodeagent.state.health import Verdict

if TYPE_CHECKING:
    from nodeagent.metrics.view import View
    from nodeagent.state.gpu import Gpu, GpuInstance, GpuSample, InstanceSample
    from nodeagent.state.health import Finding
    from nodeagent.state.network import RdmaPort

_MIB = 1 << 20
_WORD_BYTES = 4
_GRAPHICS, _TENSOR, _DRAM = 1, 5, 10  # GPM metrics
SCHEMA_VERSION = 1
_TOLD = (Verdict.FAILED, Verdict.WARNING)


def telemetry_document(view: View) -> dict[str, Any]:
    """Units stand in the names; null is what is not known."""
    agent, driver = view.agent, view.node.driver
    samples = {sample.uuid: sample for sample in view.samples}
    return {
        "schemaVersion": SCHEMA_VERSION,
        "hostname": agent.hostname,
        "version": agent.version,
        "simulated": agent.simulated,
        "driver": driver.version if driver else "",
        "converged": agent.converged,
        "driftSteps": agent.drift_steps,
        "blocked": agent.blocked,
        "readUnixSeconds": view.now,
        "health": view.health.verdict.value if view.health.generated else None,
        "problems": [_problem(view, one) for one in view.health.problems if one.verdict in _TOLD],
        "gpus": [_gpu(view, gpu, samples.get(gpu.uuid)) for gpu in _by_index(view)],
        "ports": [_port(view, device, port) for device, _, port in view.ports],
    }


def _problem(view: View, finding: Finding) -> dict[str, Any]:
    """A finding for a person; what could not be looked at is no problem yet."""
    subject = finding.subject
    gpu = view.node.gpus.get(subject.parent or subject.name)
    return {
        "verdict": finding.verdict.value,
        "check": finding.check,
        "subject": f"GPU {gpu.index}" if gpu else str(subject),
        "sinceUnixSeconds": finding.since,
        "evidence": finding.evidence,
        "advice": finding.advice,
    }


def _by_index(view: View) -> list[Gpu]:
    return sorted(view.node.gpus.values(), key=lambda gpu: gpu.index)


def _gpu(view: View, gpu: Gpu, sample: GpuSample | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "product": gpu.product,
        "pciAddress": gpu.pci_address,
        "migMode": gpu.mig_mode.value,
        "up": sample is not None,
    }
    if sample is None:
        return found | {"lastXid": view.tally_of(gpu.uuid).last_xid, "instances": [], "processes": []}
    instances = {item.gi_id: item for item in sample.instances}
    return (
        found
        | _gauges(sample)
        | {
            "lastXid": view.tally_of(gpu.uuid).last_xid,
            "instances": [_instance(view, one, instances.get(one.gi_id)) for one in gpu.instances],
            "processes": [_process(view, pid) for pid in _pids(gpu)],
        }
    )


def _gauges(sample: GpuSample) -> dict[str, Any]:
    power, limit = sample.power_milliwatts, sample.enforced_power_limit_milliwatts
    return {
        "temperatureCelsius": sample.temperature_celsius,
        "powerWatts": None if power is None else power / 1000,
        "powerLimitWatts": None if limit is None else limit / 1000,
        "utilizationPercent": sample.utilization_gpu_percent,
        "memoryUsedMib": _mib(sample.memory_used_bytes),
        "memoryTotalMib": _mib(sample.memory_total_bytes),
        "smClockMhz": sample.sm_clock_mhz,
        "tensorRatio": _ratio(sample, _TENSOR),
        "memoryTrafficRatio": _ratio(sample, _DRAM),
    }


def _instance(view: View, instance: GpuInstance, sample: InstanceSample | None) -> dict[str, Any]:
    return {
        "giId": instance.gi_id,
        "profile": instance.profile,
        "start": instance.placement.start,
        "memoryUsedMib": _mib(sample.memory_used_bytes) if sample else None,
        "memoryTotalMib": _mib(sample.memory_total_bytes) if sample else None,
        "graphicsRatio": _ratio(sample, _GRAPHICS) if sample else None,
        "processes": [_process(view, pid) for pid in instance.pids],
    }


def _ratio(sample: GpuSample | InstanceSample, metric: int) -> float | None:
    percent = sample.gpm.get(metric)
    return None if percent is None else percent / 100


def _mib(size: int | None) -> int | None:
    return None if size is None else size // _MIB


def _pids(gpu: Gpu) -> list[int]:
    return sorted({*gpu.pids, *(pid for instance in gpu.instances for pid in instance.pids)})


def _process(view: View, pid: int) -> dict[str, Any]:
    process = view.node.processes.get(pid)
    if process is None:
        return {"pid": pid, "name": "process", "pod": "", "text": f"process {pid}"}
    return {"pid": pid, "name": process.name, "pod": process.pod, "text": str(process)}


def _port(view: View, device: str, port: RdmaPort) -> dict[str, Any]:
    counters, rail = dict(port.counters), view.rails[device]
    sent, received = counters.get("port_xmit_data"), counters.get("port_rcv_data")
    return {
        "device": device,
        "port": port.port,
        "state": port.state,
        "netdev": port.netdev,
        "rail": rail.number,
        "gpu": rail.gpu,
        "rateBytesPerSecond": parse_rate(port.rate),
        "sentBytes": None if sent is None else sent * _WORD_BYTES,
        "receivedBytes": None if received is None else received * _WORD_BYTES,
    }
