"""Who uses a GPU: containers and pods of the processes on it, and jobs of a batch system by its mapping files.

A device with one user gets the user's labels on its lines. With several users there is no one name: they stand in info
series, so that no value is there twice. Mapping files are dcgm-exporter's: one file per GPU, named by its index, or
INDEX.GI for an instance, with one job id per line (NVIDIA/dcgm-exporter README, HPC job mapping).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nodeagent.metrics.view import View
    from nodeagent.state.gpu import Gpu, GpuInstance
    from nodeagent.state.processes import Process

    Jobs = Mapping[str, tuple[str, ...]]
    Samples = Iterable[tuple[str, float]]


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
    def place(self) -> dict[str, str]:
        """Labels that say which device it is."""
        found = {"gpu": str(self.gpu.index), "UUID": self.gpu.uuid}
        if self.instance:
            found |= {"GPU_I_PROFILE": self.instance.profile, "GPU_I_ID": str(self.instance.gi_id)}
        return found


def user_labels(device: Device, processes: Mapping[int, Process], jobs: Jobs) -> dict[str, str]:
    """Labels of the one user of a device; empty for none and for several."""
    users = [processes[pid] for pid in device.pids if pid in processes]
    return {
        "container_id": _only(user.container for user in users),
        "hpc_job": _only(jobs.get(device.job_file, ())),
        "pod_uid": _only(user.pod_uid for user in users),
    }


def _only(values: Iterable[str]) -> str:
    """The value that all share, "" where they differ or there is none."""
    found = set(values)
    return found.pop() if len(found) == 1 else ""


def _devices(view: View) -> Iterator[Device]:
    for gpu in view.node.gpus.values():
        yield Device(gpu)
        for instance in gpu.instances:
            yield Device(gpu, instance)


def _process_info(view: View) -> Samples:
    """A process on an instance stands there only."""
    for device in _devices(view):
        inside = {pid for instance in device.gpu.instances for pid in instance.pids} if not device.instance else ()
        for pid in device.pids:
            process = view.node.processes.get(pid)
            if process and pid not in inside:
                user = {"container_id": process.container, "pod_uid": process.pod_uid, "unit": process.unit}
                yield labels(**device.place, pid=str(pid), process=process.name, **user), 1


def _job_info(view: View) -> Samples:
    for device in _devices(view):
        for job in view.jobs.get(device.job_file, ()):
            yield labels(**device.place, hpc_job=job), 1


USER_FAMILIES = (
    (Family("nodeagent_gpu_process_info", Kind.GAUGE, "Processes on GPUs when last looked, always 1."), _process_info),
    (Family("nodeagent_gpu_job_info", Kind.GAUGE, "Jobs that a batch system placed on GPUs, always 1."), _job_info),
)
