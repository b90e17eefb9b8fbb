"""RoCE settings of the simulated RDMA devices as configfs and OFED's sysfs show them; pure.

Sources: drivers/infiniband/core/cma_configfs.c, MLNX_OFED's tc/PORT/traffic_class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.host.roce_defaults import MODE, TOS
from nodeagent.simulation.reactions import rdma_slots
from nodeagent.simulation.roce_writes import marking_of
from nodeagent.simulation.tree_entry import Entries, line
from nodeagent.simulation.tree_pci import device_folder

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile


def entries(state: KernelState, profile: Profile) -> Entries:
    """The files of every Ethernet device; `ConfigfsView` of `roce` hides those whose directory nobody made."""
    for slot in rdma_slots(state, profile):
        if slot.link_layer != "Ethernet":
            continue
        marking = marking_of(state, slot.rdma)
        if "rdma_cm" in state.modules:
            folder = f"{paths.SYS_CONFIG_RDMA_CM}/{slot.rdma}/ports/1"
            yield f"{folder}/{MODE}", line(marking.mode)
            yield f"{folder}/{TOS}", line(marking.tos)
        if profile.ofed_version and state.modules["mlx5_ib"].version == profile.ofed_version:
            shown = f"Global tclass={marking.traffic_class}" if marking.traffic_class else ""
            yield f"{device_folder(slot)}/infiniband/{slot.rdma}/tc/1/traffic_class", line(shown)
