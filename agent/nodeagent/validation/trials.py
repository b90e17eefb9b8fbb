"""Which trials on GPUs can be made now, and who is in the way of the others. Pure.

A GPU in use is left alone: its memory may be full, and a job is not to be slowed down by a proof. What could not be
tried is skipped, which is no pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.proofs import Finding, Outcome, Proof, Trial, TrialResult, Work
from nodeagent.validation.facts import Facts

_WITHOUT_A_DRIVER = "no gpu answers"


@dataclass(frozen=True)
class Device:
    """What CUDA calls a device: a GPU that is not divided, or a MIG device. `pids` are those who use it."""

    uuid: str
    pids: tuple[int, ...]


def devices(facts: Facts) -> Iterator[Device]:
    """In NVML's order."""
    for gpu in sorted(facts.state.gpus.values(), key=lambda gpu: gpu.index):
        if gpu.mig_mode is not MigMode.ENABLED:
            yield Device(gpu.uuid, gpu.pids)
        for instance in gpu.instances:
            yield from (Device(one.uuid, one.pids) for one in instance.compute_instances)


def cuda(facts: Facts, *, in_use: bool = False) -> Iterator[Trial | Finding]:
    """A vector addition on every device that is free, on all of them with `in_use`."""
    if not facts.state.gpus:
        yield Finding(Proof.CUDA, "node", Outcome.ABSENT, _WITHOUT_A_DRIVER)
    for device in devices(facts):
        if device.pids and not in_use:
            yield held(Proof.CUDA, (device,), facts)
        else:
            yield Trial(Work.VECTOR, (device.uuid,))
    for gpu in facts.state.gpus.values():
        if gpu.mig_mode is MigMode.ENABLED and not any(one.compute_instances for one in gpu.instances):
            yield Finding(Proof.CUDA, gpu.uuid, Outcome.SKIPPED, "MIG mode is on and it has no instance to compute on")


def p2p(facts: Facts, *, in_use: bool = False) -> Iterator[Trial | Finding]:
    """A copy from each whole GPU to the next, the last one's to the first: each sends and receives once."""
    whole = [Device(gpu.uuid, gpu.pids) for gpu in _whole(facts)]
    if len(whole) < 2:
        yield Finding(Proof.P2P, "node", Outcome.ABSENT, "there are no two whole gpus")
        return
    for one, other in zip(whole, [*whole[1:], whole[0]], strict=True):
        if (one.pids or other.pids) and not in_use:
            yield held(Proof.P2P, (one, other), facts)
        else:
            yield Trial(Work.PEER, (one.uuid, other.uuid))


def _whole(facts: Facts) -> list[Gpu]:
    found = (gpu for gpu in facts.state.gpus.values() if gpu.mig_mode is not MigMode.ENABLED)
    return sorted(found, key=lambda gpu: gpu.index)


def held(proof: Proof, those: tuple[Device, ...], facts: Facts) -> Finding:
    """Skipped, with who is in the way."""
    pids = [pid for device in those for pid in device.pids]
    names = [str(facts.processes.get(pid, f"process {pid}")) for pid in dict.fromkeys(pids)]
    few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Finding(proof, " to ".join(device.uuid for device in those), Outcome.SKIPPED, f"held by {few}")


def shown(trial: Trial, result: TrialResult) -> str:
    """What a person reads of a trial that went well."""
    rates = {name: f"{value / 1e9:.1f} GB/s" for name, value in result.figures.items() if name.endswith("per_second")}
    if trial.work is Work.VECTOR:
        up, down = rates["to_device_bytes_per_second"], rates["from_device_bytes_per_second"]
        what = f"{result.facts['product']}, CUDA {result.facts['cuda']}"
        return f"{what}: sums and memory right, {up} to it, {down} from it"
    if trial.work is Work.PEER:
        return (
            f"{rates['bytes_per_second']} {'directly' if result.facts['route'] == 'direct' else 'through host memory'}"
        )
    if trial.work is Work.RDMA:
        rate = f"{result.figures['bits_per_second'] / 1e9:.1f} Gb/s"
        return f"the nic writes and reads memory of the gpu by {result.facts['route']}, {rate}"
    return "it can be opened"
