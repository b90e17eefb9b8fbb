"""Who uses a GPU: containers and pods of the processes on it, and jobs of a batch system by its mapping files.

A device with one user gets the user's labels on its lines. With several users there is no one name: `user_metrics`
lists them. Mapping files are dcgm-exporter's: one file per GPU, named by its index, or INDEX.GI for an instance, with
one job id per line (NVIDIA/dcgm-exporter README, HPC job mapping).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.state.pods import ids_of_compute, ids_of_gpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.state.gpu import Gpu, GpuInstance
    from nodeagent.state.pods import PodFacts, PodUser
    from nodeagent.state.processes import Process

    Jobs = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Device:
    """What can have users: a GPU, or one of its instances."""

    gpu: Gpu
    instance: GpuInstance | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        return self.instance.pids if self.instance else self.gpu.pids

    @property
    def job_file(self) -> str:
        return f"{self.gpu.index}.{self.instance.gi_id}" if self.instance else str(self.gpu.index)

    @property
    def ids(self) -> tuple[str, ...]:
        """What device plugins call it."""
        gpu, instance = self.gpu, self.instance
        if instance is None:
            return ids_of_gpu(gpu)
        inside = (id_ for one in instance.compute_instances for id_ in ids_of_compute(gpu, instance, one))
        return tuple(dict.fromkeys(inside)) or (f"nvidia{gpu.minor}/gi{instance.gi_id}",)

    @property
    def place(self) -> dict[str, str]:
        """Labels that say which device it is."""
        found = {"gpu": str(self.gpu.index), "UUID": self.gpu.uuid}
        if self.instance:
            found |= {"GPU_I_PROFILE": self.instance.profile, "GPU_I_ID": str(self.instance.gi_id)}
        return found


def user_labels(device: Device, processes: Mapping[int, Process], jobs: Jobs, pods: PodFacts | None) -> dict[str, str]:
    """Labels of the one user of a device; empty for none and for several.

    The pod is whom the kubelet gave the device to; where it does not say, whose processes are on it.
    """
    users = [processes[pid] for pid in device.pids if pid in processes]
    given = pod_users(device, pods)
    namespace, _, pod = _only(user.pod for user in users).partition("/") if not given else ("", "", "")
    return {
        "container": _only(user.container for user in given),
        "container_id": _only(user.container for user in users),
        "hpc_job": _only(jobs.get(device.job_file, ())),
        "namespace": _only(user.namespace for user in given) if len(set(given)) == 1 else namespace,
        "pod": _only(user.pod for user in given) if len(set(given)) == 1 else pod,
        "pod_uid": _only(user.pod_uid for user in users),
    }


def pod_users(device: Device, pods: PodFacts | None) -> tuple[PodUser, ...]:
    """The containers that the kubelet gave this device to."""
    if pods is None:
        return ()
    return tuple(dict.fromkeys(user for name in device.ids for user in pods.users.get(name, ())))


def _only(values: Iterable[str]) -> str:
    """The value that all share, "" where they differ or there is none."""
    found = set(values)
    return found.pop() if len(found) == 1 else ""
