"""Congestion control of the simulated NICs: mlx5's debugfs files, and OFED's where its driver is loaded.

Source: drivers/infiniband/hw/mlx5/cong.c; the first values are those that NVIDIA documents for DCQCN.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation.reactions import rdma_slots
from nodeagent.simulation.refused import refused
from nodeagent.simulation.tree_entry import Entries, line
from nodeagent.simulation.tree_pci import device_folder
from nodeagent.state.congestion import LATER, PARAMETERS

if TYPE_CHECKING:
    from nodeagent.simulation.file_write import Write
    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile

FIRST: Mapping[str, int] = {
    "rp_clamp_tgt_rate_ati": 1,
    "rp_time_reset": 300,
    "rp_byte_reset": 32767,
    "rp_threshold": 1,
    "rp_ai_rate": 5,
    "rp_hai_rate": 50,
    "rp_min_dec_fac": 50,
    "rp_min_rate": 1,
    "rp_dce_tcp_g": 1019,
    "rp_dce_tcp_rtt": 1,
    "rp_rate_reduce_monitor_period": 4,
    "rp_initial_alpha_value": 1023,
    "rp_gd": 11,
    "np_min_time_between_cnps": 4,
    "np_cnp_dscp": 48,
    "np_cnp_prio": 6,
}
MOST: Mapping[str, int] = {"np_cnp_dscp": 63, "np_cnp_prio": 7, "rp_gd": 15, "rp_initial_alpha_value": 1023}
SWITCH = r"ecn/(?P<end>roce_[rn]p)/enable/(?P<priority>[0-7])"  # below an interface's folder
_OFFERED = tuple(name for name in PARAMETERS if name not in LATER)
_ENDS = ("roce_rp", "roce_np")


def entries(state: KernelState, profile: Profile) -> Entries:
    """The files of every Ethernet device that mlx5_ib drives, by the PCI address of its function."""
    for slot in rdma_slots(state, profile):
        if slot.link_layer != "Ethernet" or slot.physfn:
            continue
        written = state.congestion.get(slot.pci_address, {})
        for name in _OFFERED:
            value = written.get(name, FIRST.get(name, 0))
            yield f"{paths.SYS_DEBUG_MLX5}/{slot.pci_address}/cc_params/{name}", line(value)
        if profile.ofed_version and state.modules["mlx5_ib"].version == profile.ofed_version:
            for end in _ENDS:
                for priority in range(8):
                    name = f"{end}{priority}"
                    path = f"{device_folder(slot)}/net/{slot.netdev}/ecn/{end}/enable/{priority}"
                    yield path, line(written.get(name, 1))


def set_parameter(request: Write) -> KernelState:
    """kstrtou32, then the firmware's own limits: EINVAL for either."""
    name, text = request.match["name"], request.text.strip()
    if not text.isdecimal() or int(text) > MOST.get(name, 2**32 - 1):
        raise refused(errno.EINVAL)
    return _written(request.state, request.match["address"], name, int(text))


def set_enabled(request: Write) -> KernelState:
    """OFED's switch of one end for one priority."""
    if request.text.strip() not in ("0", "1"):
        raise refused(errno.EINVAL)
    address = request.state.interfaces[request.match["netdev"]].pci_address
    return _written(request.state, address, request.match["end"] + request.match["priority"], int(request.text))


def _written(state: KernelState, address: str, name: str, value: int) -> KernelState:
    settings = {**state.congestion.get(address, {}), name: value}
    return replace(state, congestion={**state.congestion, address: settings})
