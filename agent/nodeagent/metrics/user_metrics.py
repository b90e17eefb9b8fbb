"""Info series of who uses each GPU: processes, the pods that the kubelet gave it to, jobs of a batch system.

A device with several users has no one name to label its lines with: each user has a line here, so that no value is
there twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.attribution import Device, pod_users
from nodeagent.metrics.exposition import Family, Kind, labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nodeagent.metrics.view import View

    Samples = Iterable[tuple[str, float]]


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
                namespace, _, pod = process.pod.partition("/")
                user = {"container_id": process.container, "namespace": namespace, "pod": pod}
                user |= {"pod_uid": process.pod_uid, "unit": process.unit}
                yield labels(**device.place, pid=str(pid), process=process.name, **user), 1


def _job_info(view: View) -> Samples:
    for device in _devices(view):
        for job in view.jobs.get(device.job_file, ()):
            yield labels(**device.place, hpc_job=job), 1


def _pod_info(view: View) -> Samples:
    for device in _devices(view):
        for user in pod_users(device, view.pods):
            who = {"namespace": user.namespace, "pod": user.pod, "container": user.container}
            yield labels(**device.place, **who), 1


def _pods_read(view: View) -> Samples:
    seconds = view.pods.read_unix_seconds if view.pods else None
    return () if seconds is None else (("", seconds),)


USER_FAMILIES = (
    (Family("nodeagent_gpu_process_info", Kind.GAUGE, "Processes on GPUs when last looked, always 1."), _process_info),
    (Family("nodeagent_gpu_pod_info", Kind.GAUGE, "Pods that the kubelet gave GPUs to, always 1."), _pod_info),
    (
        Family(
            "nodeagent_pods_timestamp_seconds",
            Kind.GAUGE,
            "When the kubelet last said which pod has which device (Unix time); it stands still while it does not.",
        ),
        _pods_read,
    ),
    (Family("nodeagent_gpu_job_info", Kind.GAUGE, "Jobs that a batch system placed on GPUs, always 1."), _job_info),
)
