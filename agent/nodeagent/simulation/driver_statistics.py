"""What mlx5 counts by itself on a simulated node (`ethtool -S`), in the same terms as the RDMA ports' counters.

RoCE's bytes stand on the priority that its packets get by type of service and DSCP table, so that what is configured
and what carries bytes can be seen to differ. A lossless priority is paused now and then; one that is not loses packets.
Source of the names: drivers/net/ethernet/mellanox/mlx5/core/en_stats.c.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from nodeagent.simulation.dcb import has_dcb
from nodeagent.simulation.reactions import rdma_slots
from nodeagent.simulation.roce_writes import marking_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import Interface, KernelState
    from nodeagent.simulation.profiles import Slot

ROCE_BYTES_PER_SECOND = 1_000_000_000
_OTHER_BYTES_PER_SECOND = 400_000
_PAUSED_MICROSECONDS_PER_SECOND = {"rx": 9_000, "tx": 1_500}
_FRAMES_PER_PAUSED_SECOND = 20_000
_LOST_PER_SECOND = 40
_PRIORITIES = 8
_TOS_BITS_BELOW_DSCP = 2
_WAVE_SECONDS, _SWING = 40.0, 0.7


def busy_seconds(seconds: float, number: int) -> float:
    """How long device `number` would have worked at its usual rate, in so many seconds: it works in waves.

    The rate is between 0.3 and 1.7 of the usual, so that this never falls and is `seconds` in the long run.
    """
    phase = float(number)
    wave = math.sin(seconds / _WAVE_SECONDS + phase) - math.sin(phase)
    return seconds + _SWING * _WAVE_SECONDS * wave


class SimulatedStatistics:
    """Values by interface and name, for physical functions of mlx5 whose link is up."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def __call__(self, netdevs: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        state = self._kernel.state
        elapsed = time.time() - state.booted_at
        found = {}
        for number, slot in enumerate(rdma_slots(state, self._kernel.profile)):
            interface = next((one for one in state.interfaces.values() if one.pci_address == slot.pci_address), None)
            if interface and interface.name in netdevs and has_dcb(interface):
                running = interface.up and interface.carrier
                found[interface.name] = _counted(state, slot, interface, busy_seconds(elapsed, number) * running)
        return found


def _counted(state: KernelState, slot: Slot, interface: Interface, busy: float) -> dict[str, int]:
    marking = marking_of(state, slot.rdma)
    dscp = (marking.traffic_class or marking.tos) >> _TOS_BITS_BELOW_DSCP
    roce = dict(interface.dscp).get(dscp, 0)
    lossless = roce in interface.pfc
    moved = int(ROCE_BYTES_PER_SECOND * busy)
    found = {f"{way}_vport_rdma_unicast_bytes": moved for way in ("rx", "tx")}
    for way in ("rx", "tx"):
        for priority in range(_PRIORITIES):
            other = int(_OTHER_BYTES_PER_SECOND * busy) if priority == 0 else 0
            found[f"{way}_prio{priority}_bytes"] = other + (moved if priority == roce else 0)
        for priority in interface.pfc:
            share = _PAUSED_MICROSECONDS_PER_SECOND[way] if priority == roce else 0
            found[f"{way}_prio{priority}_pause_duration"] = int(share * busy)
            found[f"{way}_prio{priority}_pause"] = int(share * busy * _FRAMES_PER_PAUSED_SECOND / 1e6)
    lost = 0 if lossless else int(_LOST_PER_SECOND * busy)
    return found | {
        "rx_discards_phy": lost,
        "tx_discards_phy": 0,
        "rx_out_of_buffer": 0,
        "tx_pause_storm_warning_events": 0,
        "tx_pause_storm_error_events": 0,
        "link_down_events_phy": 0,
        "rx_crc_errors_phy": 0,
        "rx_symbol_err_phy": 0,
    }
