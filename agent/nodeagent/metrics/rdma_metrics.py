"""RDMA ports: state, rate and counters, under our names and on request under node_exporter's.

Sources: Documentation/ABI/stable/sysfs-class-infiniband (units), drivers/infiniband/hw/mlx5/counters.c (hw_counters),
prometheus/node_exporter collector/infiniband_linux.go (names).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nodeagent.metrics.view import View

    Samples = Iterable[tuple[str, float]]

_WORD_BYTES = 4
_WORDS = {"port_xmit_data": "transmitted_bytes", "port_rcv_data": "received_bytes"}  # counted in 32-bit words
_BYTES_PER_GIGABIT = 125_000_000
_RATE = re.compile(r"([0-9.]+) Gb/sec")
_STATES = {"NOP": 0, "DOWN": 1, "INIT": 2, "ARMED": 3, "ACTIVE": 4, "ACTIVE_DEFER": 5}

NODE_EXPORTER_NAMES = {
    "port_xmit_data": "port_data_transmitted_bytes_total",
    "port_rcv_data": "port_data_received_bytes_total",
    "port_xmit_packets": "port_packets_transmitted_total",
    "port_rcv_packets": "port_packets_received_total",
    "unicast_xmit_packets": "unicast_packets_transmitted_total",
    "unicast_rcv_packets": "unicast_packets_received_total",
    "multicast_xmit_packets": "multicast_packets_transmitted_total",
    "multicast_rcv_packets": "multicast_packets_received_total",
    "symbol_error": "symbol_error_total",
    "link_error_recovery": "link_error_recovery_total",
    "link_downed": "link_downed_total",
    "port_rcv_errors": "port_errors_received_total",
    "port_rcv_remote_physical_errors": "port_receive_remote_physical_errors_total",
    "port_rcv_switch_relay_errors": "port_receive_switch_relay_errors_total",
    "port_xmit_discards": "port_discards_transmitted_total",
    "port_xmit_constraint_errors": "port_constraint_errors_transmitted_total",
    "port_rcv_constraint_errors": "port_constraint_errors_received_total",
    "local_link_integrity_errors": "local_link_integrity_errors_total",
    "excessive_buffer_overrun_errors": "excessive_buffer_overrun_errors_total",
    "VL15_dropped": "vl15_dropped_total",
    "port_xmit_wait": "port_transmit_wait_total",
    "np_ecn_marked_roce_packets": "np_ecn_marked_roce_packets_received_total",
    "np_cnp_sent": "np_cnp_packets_sent_total",
    "rp_cnp_handled": "rp_cnp_packets_handled_total",
    "rp_cnp_ignored": "rp_cnp_ignored_packets_received_total",
    "out_of_sequence": "out_of_sequence_packets_received_total",
    "packet_seq_err": "packet_sequence_errors_total",
    "implied_nak_seq_err": "implied_nak_seq_errors_total",
    "local_ack_timeout_err": "local_ack_timeout_errors_total",
    "rnr_nak_retry_err": "rnr_nak_retry_packets_received_total",
    "out_of_buffer": "out_of_buffer_drops_total",
    "duplicate_request": "duplicate_requests_packets_total",
    "roce_adp_retrans": "roce_adp_retransmits_total",
    "roce_adp_retrans_to": "roce_adp_retransmits_timeout_total",
    "roce_slow_restart": "roce_slow_restart_total",
    "roce_slow_restart_cnps": "roce_slow_restart_cnps_total",
    "rx_icrc_encapsulated": "rx_icrc_encapsulated_errors_total",
    "rx_write_requests": "rx_write_requests_total",
    "rx_read_requests": "rx_read_requests_total",
    "rx_atomic_requests": "rx_atomic_requests_total",
    "rx_dct_connect": "rx_dct_connect_requests_total",
    "resp_cqe_error": "resp_cqes_errors_total",
    "resp_cqe_flush_error": "resp_cqes_flush_errors_total",
    "resp_remote_access_errors": "resp_remote_access_errors_total",
    "resp_local_length_error": "resp_local_length_errors_total",
    "req_cqe_error": "req_cqes_errors_total",
    "req_cqe_flush_error": "req_cqes_flush_errors_total",
    "req_remote_access_errors": "req_remote_access_errors_total",
    "req_remote_invalid_request": "req_remote_invalid_request_errors_total",
}


def port_counters(view: View) -> Iterator[tuple[Family, Samples]]:
    """A counter family for each name that any RDMA port has; which ones there are depends on the NIC's driver."""
    found: dict[str, list[tuple[str, str, float]]] = {}
    for device, label_set, port in view.ports:
        plain = labels(device=device, port=str(port.port))
        for name, value in port.counters:
            scaled = value * _WORD_BYTES if name in _WORDS else value
            found.setdefault(name, []).append((label_set, plain, scaled))
    for name in sorted(found):
        yield _family(name), [(label_set, value) for label_set, _, value in found[name]]
    if view.options.node_exporter_names:
        yield from _as_node_exporter(view, found)


def _family(name: str) -> Family:
    plain = _WORDS.get(name) or re.sub(r"\W", "_", name.removeprefix("port_").lower())
    text = f"RDMA port counter {name}" + (" (in bytes)." if name in _WORDS else ".")
    return Family(f"nodeagent_rdma_port_{plain}_total", Kind.COUNTER, text)


def _as_node_exporter(view: View, found: dict[str, list[tuple[str, str, float]]]) -> Iterator[tuple[Family, Samples]]:
    """Its labels are device and port alone."""
    for name in sorted(found.keys() & NODE_EXPORTER_NAMES.keys()):
        family = Family(f"node_infiniband_{NODE_EXPORTER_NAMES[name]}", Kind.COUNTER, f"RDMA port counter {name}.")
        yield family, [(plain, value) for _, plain, value in found[name]]
    states = [
        (labels(device=device, port=str(port.port)), _STATES.get(port.state, 0)) for device, _, port in view.ports
    ]
    yield Family("node_infiniband_state_id", Kind.GAUGE, "State of the InfiniBand port (4: active)."), states
    yield Family("node_infiniband_info", Kind.GAUGE, "InfiniBand devices, always 1."), _node_exporter_info(view)
    rates = [(labels(device=device, port=str(port.port)), parse_rate(port.rate)) for device, _, port in view.ports]
    yield (
        Family("node_infiniband_rate_bytes_per_second", Kind.GAUGE, "Maximum signal transfer rate."),
        [(label_set, rate) for label_set, rate in rates if rate],
    )


def _node_exporter_info(view: View) -> list[tuple[str, float]]:
    rows = ((name, found.board_id, found.firmware, found.hca_type) for name, found in view.node.rdma.items())
    names = ("device", "board_id", "firmware_version", "hca_type")
    return [(labels(**dict(zip(names, row, strict=True))), 1) for row in rows]


def parse_rate(text: str) -> int:
    """`100 Gb/sec (4X EDR)` in bytes per second; 0 where there is none."""
    found = _RATE.match(text)
    return int(float(found[1]) * _BYTES_PER_GIGABIT) if found else 0


def _up(view: View) -> Samples:
    return ((label_set, port.state.rpartition(" ")[2] == "ACTIVE") for _, label_set, port in view.ports)


def _mtu(view: View) -> Samples:
    return ((label_set, port.active_mtu_bytes) for _, label_set, port in view.ports if port.active_mtu_bytes)


def _rate(view: View) -> Samples:
    rates = ((label_set, parse_rate(port.rate)) for _, label_set, port in view.ports)
    return ((label_set, rate) for label_set, rate in rates if rate)


def _gid_index(view: View) -> Samples:
    for device, label_set, port in view.ports:
        index = view.gid_indexes.get((device, port.port))
        if index is not None:
            yield label_set, index


def _device_info(view: View) -> Samples:
    for name, device in view.node.rdma.items():
        function = view.node.pci.get(device.pci_address)
        numa_node = str(function.numa_node) if function and function.numa_node >= 0 else ""
        rail = view.rails[name]
        pairs = {"node_guid": device.node_guid, "firmware": device.firmware, "numa_node": numa_node}
        pairs |= {"board_id": device.board_id, "hca_type": device.hca_type}
        yield labels(device=name, pci_bus_id=device.pci_address, **pairs, rail=rail.number, gpu=rail.gpu), 1


def _gauge(name: str, text: str) -> Family:
    return Family(f"nodeagent_rdma_{name}", Kind.GAUGE, text)


RDMA_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    (_gauge("device_info", "RDMA devices and where they are, always 1."), _device_info),
    (_gauge("port_up", "Whether the RDMA port is active."), _up),
    (_gauge("port_active_mtu_bytes", "MTU in force on the RDMA port."), _mtu),
    (_gauge("port_rate_bytes_per_second", "Signal rate of the RDMA port."), _rate),
    (
        _gauge("port_roce_gid_index", "Index of the GID that RoCE v2 should use; absent: the port has no such GID."),
        _gid_index,
    ),
)
