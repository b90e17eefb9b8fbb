"""Counters that the hardware keeps in 32 bits, carried on past their wrap."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.state.network import RdmaDevice, RdmaPort

_SPAN = 1 << 32
_NEAR_THE_END = 3 << 30  # a fall from below this is a reset: no counter gains a quarter of its span in one cycle

# mlx5 keeps its queue counters in 32 bits of firmware (drivers/infiniband/hw/mlx5/counters.c, query_q_counter).
NARROW = frozenset(
    {
        "rx_write_requests",
        "rx_read_requests",
        "rx_atomic_requests",
        "rx_dct_connect",
        "out_of_buffer",
        "out_of_sequence",
        "duplicate_request",
        "rnr_nak_retry_err",
        "packet_seq_err",
        "implied_nak_seq_err",
        "local_ack_timeout_err",
        "resp_local_length_error",
        "resp_cqe_error",
        "req_cqe_error",
        "req_remote_invalid_request",
        "req_remote_access_errors",
        "resp_remote_access_errors",
        "resp_cqe_flush_error",
        "req_cqe_flush_error",
        "roce_adp_retrans",
        "roce_adp_retrans_to",
        "roce_slow_restart",
        "roce_slow_restart_cnps",
        "roce_slow_restart_trans",
    }
)


class Unwrap:
    """Remembers the last raw value of every narrow counter, and how often it wrapped."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int, str], int] = {}
        self._added: dict[tuple[str, int, str], int] = {}

    def __call__(self, devices: Mapping[str, RdmaDevice]) -> Mapping[str, RdmaDevice]:
        """The same devices with counters that only fall when the hardware was reset."""
        return {
            name: replace(device, ports=tuple(self._port(name, port) for port in device.ports))
            for name, device in devices.items()
        }

    def _port(self, device: str, port: RdmaPort) -> RdmaPort:
        counters = ((name, self._value((device, port.port, name), value)) for name, value in port.counters)
        return replace(port, counters=tuple(counters))

    def _value(self, key: tuple[str, int, str], raw: int) -> int:
        if key[2] not in NARROW:
            return raw
        last = self._last.get(key, 0)
        self._last[key] = raw
        if raw < last:
            self._added[key] = self._added.get(key, 0) + _SPAN if _NEAR_THE_END <= last < _SPAN else 0
        return raw + self._added.get(key, 0)
