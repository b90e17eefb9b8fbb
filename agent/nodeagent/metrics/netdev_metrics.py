"""What a NIC's driver counts (ethtool -S), as far as it matters for RoCE: flow control, traffic classes, loss, cables.

Only mlx5 names are known here; a driver with other names gives no family. Per priority, "which priority carries bytes"
stands beside "which priority was paused", so that a lossless class that is not the one in use shows in one query.
Sources: drivers/net/ethernet/mellanox/mlx5/core/en_stats.c, Documentation/networking/device_drivers/ethernet/mellanox/
mlx5/counters.rst.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from nodeagent.metrics.exposition import Family, Kind, labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.metrics.view import View

_MICROSECONDS = 1e6
_PRIORITY = re.compile(r"(rx|tx)_prio([0-7])_(\w+)")
_WAYS = {"rx": "received", "tx": "sent"}


class _Meaning(NamedTuple):
    name: str
    text: str
    divisor: float = 1


_BY_PRIORITY = {
    "bytes": _Meaning("priority_bytes_total", "Bytes by priority."),
    "packets": _Meaning("priority_packets_total", "Packets by priority."),
    "pause": _Meaning("priority_pause_frames_total", "PFC pause frames; received: the network stops us."),
    "pause_duration": _Meaning("priority_paused_seconds_total", "Time paused by PFC.", _MICROSECONDS),
    "pause_transition": _Meaning("priority_pause_transitions_total", "Changes from running to paused."),
    "buf_discard": _Meaning("priority_buffer_discards_total", "Packets lost for want of buffer."),
    "cong_discard": _Meaning("priority_congestion_discards_total", "Packets lost to congestion."),
    "discards": _Meaning("priority_discards_total", "Packets lost."),
    "marked": _Meaning("priority_ecn_marked_total", "Packets that were ECN marked here."),
}
_PLAIN = {
    "rx_global_pause": _Meaning("global_pause_received_frames_total", "802.3x pause frames received: not PFC."),
    "tx_global_pause": _Meaning("global_pause_sent_frames_total", "802.3x pause frames sent: not PFC."),
    "rx_global_pause_duration": _Meaning("global_paused_seconds_total", "Time paused by 802.3x.", _MICROSECONDS),
    "tx_pause_storm_warning_events": _Meaning("pause_storm_warnings_total", "Times we paused for very long."),
    "tx_pause_storm_error_events": _Meaning("pause_storm_errors_total", "Times the pause watchdog struck."),
    "rx_discards_phy": _Meaning("discards_received_total", "Packets lost at the port on the way in."),
    "tx_discards_phy": _Meaning("discards_sent_total", "Packets lost at the port on the way out."),
    "rx_out_of_buffer": _Meaning("out_of_buffer_total", "Packets lost because no receive buffer was posted."),
    "rx_buffer_passed_thres_phy": _Meaning("buffer_nearly_full_total", "Times the port buffer was over 85 % full."),
    "link_down_events_phy": _Meaning("link_down_events_total", "Times the link went down."),
    "rx_crc_errors_phy": _Meaning("crc_errors_total", "Frames with a wrong checksum."),
    "rx_symbol_err_phy": _Meaning("symbol_errors_total", "Symbol errors that could not be corrected."),
    "rx_corrected_bits_phy": _Meaning("corrected_bits_total", "Bits that forward error correction repaired."),
    "rx_pcs_symbol_err_phy": _Meaning("pcs_symbol_errors_total", "Symbols that forward error correction repaired."),
    "rx_pci_signal_integrity": _Meaning("pci_received_errors_total", "PCIe signal errors on the way in."),
    "tx_pci_signal_integrity": _Meaning("pci_sent_errors_total", "PCIe signal errors on the way out."),
    "rx_vport_rdma_unicast_bytes": _Meaning("rdma_received_bytes_total", "RDMA bytes received by this function."),
    "tx_vport_rdma_unicast_bytes": _Meaning("rdma_sent_bytes_total", "RDMA bytes sent by this function."),
    "module_high_temp": _Meaning("optics_overheated_total", "Times the optical module was too hot."),
    "module_bus_stuck": _Meaning("optics_bus_stuck_total", "Times the optical module did not answer."),
}
_GAUGES = {
    "outbound_pci_stalled_rd": _Meaning("pci_stalled_reads_ratio", "Share of time reads waited for PCIe.", 100),
    "outbound_pci_stalled_wr": _Meaning("pci_stalled_writes_ratio", "Share of time writes waited for PCIe.", 100),
}

STATISTICS: tuple[Family, ...] = (
    *(Family(f"nodeagent_netdev_{found.name}", Kind.COUNTER, found.text) for found in _BY_PRIORITY.values()),
    *(Family(f"nodeagent_netdev_{found.name}", Kind.COUNTER, found.text) for found in _PLAIN.values()),
    *(Family(f"nodeagent_netdev_{found.name}", Kind.GAUGE, found.text) for found in _GAUGES.values()),
)


def is_wanted(name: str) -> bool:
    """Whether a driver's statistic is shown."""
    return name in _PLAIN or name in _GAUGES or _priority(name) is not None


def _priority(name: str) -> tuple[str, str, _Meaning] | None:
    found = _PRIORITY.fullmatch(name)
    meaning = _BY_PRIORITY.get(found[3]) if found else None
    return (_WAYS[found[1]], found[2], meaning) if found and meaning else None


def driver_statistics(view: View) -> Iterator[tuple[Family, list[tuple[str, float]]]]:
    """A family for each known statistic that any interface has."""
    found: dict[tuple[str, Kind, str], list[tuple[str, float]]] = {}
    for netdev, values in view.statistics.items():
        address = view.node.netdevs[netdev].pci_address if netdev in view.node.netdevs else ""
        place = {"netdev": netdev, "pci_bus_id": address}
        for name, value in values.items():
            shown = _shown(name, place)
            if shown:
                kind, meaning, label_set = shown
                scaled = value if meaning.divisor == 1 else value / meaning.divisor
                found.setdefault((meaning.name, kind, meaning.text), []).append((label_set, scaled))
    for (name, kind, text), samples in sorted(found.items()):
        yield Family(f"nodeagent_netdev_{name}", kind, text), samples


def _shown(name: str, place: dict[str, str]) -> tuple[Kind, _Meaning, str] | None:
    if name in _PLAIN:
        return Kind.COUNTER, _PLAIN[name], labels(**place)
    if name in _GAUGES:
        return Kind.GAUGE, _GAUGES[name], labels(**place)
    by_priority = _priority(name)
    if by_priority is None:
        return None
    way, priority, meaning = by_priority
    return Kind.COUNTER, meaning, labels(**place, priority=priority, direction=way)
