"""Which pods have which devices, as the kubelet tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodeagent.state.gpu import ComputeInstance, Gpu, GpuInstance
    from nodeagent.state.processes import Process


@dataclass(frozen=True, order=True)
class PodUser:
    """A container of a pod."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


@dataclass(frozen=True)
class PodFacts:
    """`users` maps a device's id (a GPU's or MIG device's UUID, nvidia0) to the containers that were given it.

    `read_unix_seconds` is when the kubelet last answered; None: not yet. `allocatable_gpus` is None where it does not
    say.
    """

    users: Mapping[str, tuple[PodUser, ...]] = field(default_factory=lambda: MappingProxyType({}))
    read_unix_seconds: float | None = None
    allocatable_gpus: int | None = None


def ids_of_gpu(gpu: Gpu) -> tuple[str, ...]:
    """What device plugins call a whole GPU: by UUID, and by minor number as on GKE."""
    return gpu.uuid, f"nvidia{gpu.minor}"


def ids_of_compute(gpu: Gpu, instance: GpuInstance, compute: ComputeInstance) -> tuple[str, ...]:
    """What they call a MIG device: by UUID, by the old form of it, and as on GKE."""
    return compute.uuid, f"MIG-{gpu.uuid}/{instance.gi_id}/{compute.ci_id}", f"nvidia{gpu.minor}/gi{instance.gi_id}"


@dataclass(frozen=True)
class PodsOnGpus:
    """Adds to GPUs the pods that were given them and have no process on them: those with one are known by it."""

    users: Mapping[str, tuple[PodUser, ...]]
    processes: Mapping[int, Process]

    def on(self, gpu: Gpu) -> Gpu:
        instances = tuple(self._on_instance(gpu, one) for one in gpu.instances)
        return replace(gpu, pods=self._silent(ids_of_gpu(gpu), gpu.pids), instances=instances)

    def _on_instance(self, gpu: Gpu, instance: GpuInstance) -> GpuInstance:
        found = tuple(
            replace(one, pods=self._silent(ids_of_compute(gpu, instance, one), one.pids))
            for one in instance.compute_instances
        )
        return replace(instance, compute_instances=found)

    def _silent(self, ids: Iterable[str], pids: Iterable[int]) -> tuple[str, ...]:
        running = {f"pod {self.processes[pid].pod}" for pid in pids if pid in self.processes}
        given = (str(user) for id_ in ids for user in self.users.get(id_, ()))
        return tuple(dict.fromkeys(name for name in given if name not in running))


def users_of(used: Gpu | GpuInstance | ComputeInstance, processes: Mapping[int, Process]) -> str:
    """Who runs on it, and which pods were given it and run nothing yet, for a person; "" for nobody."""
    running = (str(processes.get(pid, f"process {pid}")) for pid in sorted(set(used.pids)))
    return ", ".join((*running, *(f"{pod} (without a process so far)" for pod in dict.fromkeys(used.pods))))
