"""`ports.RdmaDevices` on the simulated kernel.

Source: drivers/infiniband/core/device.c (ib_device_rename): the settings of rdma_cm follow the device, a name that is
taken is EEXIST.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.errors import GoneError
from nodeagent.host.netlink import refusal
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.reactions import rdma_slots
from nodeagent.state.network import RdmaHolder, RdmaObject

if TYPE_CHECKING:
    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import KernelState

UVERBS_MAJOR, FIRST_UVERBS = 231, 192


class SimulatedRdmaDevices:
    """The RDMA devices of the simulated NICs."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def rename(self, device: str, name: str) -> None:
        def edit(state: KernelState) -> KernelState:
            slots = {slot.rdma: slot for slot in rdma_slots(state, self._kernel.profile)}
            if device not in slots:
                raise OSError(errno.ENODEV, "no such rdma device")
            if name in slots and name != device:
                raise OSError(errno.EEXIST, "file exists")
            names = edited(state.rdma_names, **{slots[device].pci_address: name})
            markings = {name if key == device else key: item for key, item in state.markings.items()}
            return replace(state, rdma_names=names, markings=markings)

        try:
            self._kernel.change(edit)
        except OSError as error:
            raise refusal(f"rename to {name}", device, error.errno or errno.EIO, error.strerror or "") from error

    def await_device(self, pci_address: str) -> str:
        """It is there at once or never."""
        slots = rdma_slots(self._kernel.state, self._kernel.profile)
        found = next((slot.rdma for slot in slots if slot.pci_address == pci_address), None)
        if found is None:
            raise GoneError("wait for the rdma device of", pci_address, "not there after its driver")
        return found

    def holders(self) -> Mapping[str, tuple[RdmaHolder, ...]]:
        """Fake processes that have a device's verbs node open; their memory regions are on the first one."""
        state = self._kernel.state
        return {
            slot.rdma: tuple(
                RdmaHolder(fake.pid, _objects(fake.memory_regions))
                for fake in state.processes.values()
                if (UVERBS_MAJOR, FIRST_UVERBS + number) in fake.opens
            )
            for number, slot in enumerate(rdma_slots(state, self._kernel.profile))
        }


def _objects(regions: int) -> tuple[tuple[RdmaObject, int], ...]:
    return ((RdmaObject.CONTEXT, 1), *(((RdmaObject.MEMORY_REGION, regions),) if regions else ()))
