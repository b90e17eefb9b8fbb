"""The machine we run on as a `Host`: the real adapters put together."""

from __future__ import annotations

from nodeagent.host.ports import Host


def open_host(nvml_deadline_seconds: float) -> Host:
    """The real machine; no adapter touches it before its first call. An NVML call may take the given seconds."""
    # Imported here: commands that need no machine must not pay for libkmod and the worker.
    from nodeagent.host.clock import RealClock  # noqa: PLC0415
    from nodeagent.host.container_runtimes import LocalRuntimes  # noqa: PLC0415
    from nodeagent.host.cuda import CudaProcesses  # noqa: PLC0415
    from nodeagent.host.files import LocalFiles  # noqa: PLC0415
    from nodeagent.host.kernel_log import KmsgLog  # noqa: PLC0415
    from nodeagent.host.kmod import LibKmod  # noqa: PLC0415
    from nodeagent.host.links import RtnlLinks  # noqa: PLC0415
    from nodeagent.host.nvml_worker import WorkerNvml  # noqa: PLC0415
    from nodeagent.host.processes import ProcProcesses  # noqa: PLC0415
    from nodeagent.host.services import Systemd  # noqa: PLC0415
    from nodeagent.host.slurm import Scontrol  # noqa: PLC0415
    from nodeagent.host.vitals import RealVitals  # noqa: PLC0415

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
        runtimes=LocalRuntimes(services),
        vitals=RealVitals(),
        cuda=CudaProcesses(),
        slurm=Scontrol(),
    )
