"""RoCE settings of the simulated kernel: rdma_cm's configfs, OFED's traffic class, the network namespace mode.

Sources: drivers/infiniband/core/cma_configfs.c, device.c (rdma_compatdev_set), MLNX_OFED's tc/PORT/traffic_class.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.errors import UnsupportedError
from nodeagent.host import paths
from nodeagent.host.files import host_errors
from nodeagent.host.roce_defaults import MODE, TOS, write_default, write_traffic_class
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.refused import refused

if TYPE_CHECKING:
    from nodeagent.host.ports import Files
    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import KernelState


class ConfigfsView:
    """Which directories of configfs this process made: files below others do not exist for it."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def covers(self, path: str) -> bool:
        return path.startswith(f"{paths.SYS_CONFIG_RDMA_CM}/")

    def shows(self, path: str) -> bool:
        """Whether a path below configfs can be seen."""
        device = path.removeprefix(f"{paths.SYS_CONFIG_RDMA_CM}/").split("/")[0]
        return device in self._made

    def make(self, path: str, files: Files, state: KernelState) -> None:
        """OSError ENOENT without rdma_cm, ENODEV where there is no such device."""
        if "rdma_cm" not in state.modules:
            raise refused(errno.ENOENT)
        device = path.rpartition("/")[2]
        if not files.exists(f"{paths.SYS_CLASS_INFINIBAND}/{device}"):
            raise refused(errno.ENODEV)
        self._made.add(device)

    def remove(self, path: str) -> None:
        self._made.discard(path.rpartition("/")[2])


class SimulatedRoce:
    """The part of `ports.Links` that is about RoCE."""

    def __init__(self, kernel: SimKernel, files: Files) -> None:
        self._kernel, self._files = kernel, files

    def set_roce_mode(self, device: str, port: int, mode: str) -> None:
        write_default(self._files, device, port, MODE, mode)

    def set_roce_tos(self, device: str, port: int, tos: int) -> None:
        write_default(self._files, device, port, TOS, str(tos))

    def set_traffic_class(self, device: str, port: int, traffic_class: int) -> None:
        write_traffic_class(self._files, device, port, traffic_class)

    def set_rdma_netns_shared(self, shared: bool) -> None:
        operation, subject = "set network namespace mode of", "the rdma stack"
        if "ib_core" not in self._kernel.state.modules:
            raise UnsupportedError(operation, subject, "there is none", "load ib_core")

        def edit(state: KernelState) -> KernelState:
            if state.other_namespaces:
                raise refused(errno.EBUSY)
            core = state.modules["ib_core"]
            parameters = {**core.parameters, "netns_mode": "Y" if shared else "N"}
            return replace(state, modules=edited(state.modules, ib_core=replace(core, parameters=parameters)))

        with host_errors(operation, subject):
            self._kernel.change(edit)
