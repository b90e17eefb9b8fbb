"""What the proofs look at that is no part of the observed node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nodeagent.state.containers import CdiFile
from nodeagent.state.node import NodeState
from nodeagent.state.processes import Process


@dataclass(frozen=True)
class Facts:
    """The node and what stands around it.

    `cdi_problems` maps a specification's path to what keeps a runtime from using it, `runtimes` an installed container
    runtime to why it does not know CDI, "" where it does. `has_kubelet`: its pod-resources socket is there, and
    `kubelet_trouble` is why it does not answer. `nvidia_fs` is what /proc/driver/nvidia-fs/version says, None without
    it, `cufile_problem` what is wrong with cufile.json. `ofed_ready`: an OFED container says that its driver is ready.
    `wants_rdma`: the node file does not speak of modules at all, or asks for those of RDMA.
    """

    state: NodeState = field(default_factory=NodeState)
    cdi_files: tuple[CdiFile, ...] = ()
    cdi_problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    runtimes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    has_kubelet: bool = False
    allocatable_gpus: int | None = None
    kubelet_trouble: str = ""
    nvidia_fs: str | None = None
    cufile_problem: str = ""
    ofed_ready: bool = False
    wants_rdma: bool = True

    @property
    def processes(self) -> Mapping[int, Process]:
        return self.state.processes
