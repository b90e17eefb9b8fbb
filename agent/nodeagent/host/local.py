"""The machine we run on as a `Host`: the real adapters put together."""

from __future__ import annotations

import os

from nodeagent.host.ports import Host

HOST_ROOT = "NODEAGENT_HOST_ROOT"  # set in a container that has the node's root directory and may chroot


def open_host(nvml_deadline_seconds: float) -> Host:
    """The real machine; no adapter touches it before its first call. An NVML call may take the given seconds."""
    # Imported here: commands that need no machine must not pay for libkmod and the worker.
    from nodeagent.host.clock import RealClock
    from nodeagent.host.container_runtimes import LocalRuntimes
    from nodeagent.host.cuda import CudaProcesses
    from nodeagent.host.files import LocalFiles
    from nodeagent.host.kernel_log import KmsgLog
    from nodeagent.host.kmod import LibKmod
    from nodeagent.host.links import RtnlLinks
    from nodeagent.host.nvml_worker import WorkerNvml
    from nodeagent.host.processes import ProcProcesses
    from nodeagent.host.services import Systemd
    from nodeagent.host.slurm import Scontrol
    from nodeagent.host.vitals import RealVitals

    files, clock = LocalFiles(), RealClock()
    services = Systemd(files, clock)
    return Host(
        files=files,
        kmod=LibKmod.real(),
        nvml=WorkerNvml(deadline_seconds=nvml_deadline_seconds),
        links=RtnlLinks(files),
        processes=ProcProcesses(files),
        services=services,
        kernel_log=KmsgLog(),
        clock=clock,
        runtimes=LocalRuntimes(services, host_root=os.environ.get(HOST_ROOT, "")),
        vitals=RealVitals(),
        cuda=CudaProcesses(),
        slurm=Scontrol(),
    )
