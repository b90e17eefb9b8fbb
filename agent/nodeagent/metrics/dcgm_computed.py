"""DCGM_EXP_*: what dcgm-exporter computes itself and shows on request; here from NVML's values alone.

Their labels carry state, so that series come and go: nodeagent_gpu_xid_errors_total and
nodeagent_gpu_throttled_seconds_total say the same in a way that rates can be taken of. They are here for dashboards
that ask for them. Sources: NVIDIA/dcgm-exporter internal/pkg/collector (names, labels, windows), NVIDIA/DCGM
DcgmHealthWatch.cpp (what counts as a warning or a failure), nvml.h (nvmlClocksEventReason*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, extended
from nodeagent.metrics.tally import CLOCK_EVENTS, WINDOW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nodeagent.metrics.view import View
    from nodeagent.state.gpu import GpuSample

    Samples = Iterable[tuple[str, float]]

_WINDOW = {"window_size_in_ms": str(WINDOW_SECONDS * 1000)}
_PASS, _WARN, _FAIL = 0, 10, 20
_THERMAL_BITS, _POWER_BITS = 0x60, 0x80
_REMAPPED_ROWS_MAX = 512
P2P_FAMILY = "DCGM_EXP_P2P_STATUS"
P2P_STATUS = dict(
    enumerate(
        ("OK", "ChipsetNotSupported", "GPUNotSupported", "TopologyNotSupported", "DisabledByRegKey", "NotSupported")
    )
)  # nvmlGpuP2PStatus_t in the words of dcgm-exporter
_WATCHES = ("MEM", "THERMAL", "POWER", "DRIVER")


def _xids_in_window(view: View) -> Samples:
    for sample in view.known_samples:
        place, recent = view.gpu_labels[sample.uuid], view.tally_of(sample.uuid).recent_xids
        codes = [code for seconds, code in recent if view.now - seconds <= WINDOW_SECONDS]
        if not codes:
            yield extended(place, **_WINDOW), 0
        for code in sorted(set(codes)):
            yield extended(place, **_WINDOW, xid=str(code)), codes.count(code)


def _xids_in_total(view: View) -> Samples:
    for sample in view.known_samples:
        totals: dict[int, int] = {}
        for (code, _), count in view.tally_of(sample.uuid).counts.items():
            totals[code] = totals.get(code, 0) + count
        for code, count in sorted(totals.items()):
            yield extended(view.gpu_labels[sample.uuid], xid=str(code)), count


def _clock_events_in_window(view: View) -> Samples:
    for sample in view.known_samples:
        place, recent = view.gpu_labels[sample.uuid], view.tally_of(sample.uuid).recent_reasons
        masks = [mask for seconds, mask in recent if view.now - seconds <= WINDOW_SECONDS]
        for name, bit in CLOCK_EVENTS.items():
            if masks:
                yield extended(place, **_WINDOW, clock_event=name), sum(1 for mask in masks if mask & bit)


def _clock_events_in_total(view: View) -> Samples:
    for sample in view.known_samples:
        for name, count in view.tally_of(sample.uuid).clock_events.items():
            yield extended(view.gpu_labels[sample.uuid], clock_event=name), count


def _health(view: View) -> Samples:
    """The watches whose inputs NVML has, each with its worst finding; the others are left out."""
    for sample in view.known_samples:
        found = sorted(_incidents(sample))
        for watch in (*_WATCHES, "ALL"):
            mine = [(status, code) for name, status, code in found if watch in (name, "ALL")]
            status, code = max(mine, default=(_PASS, ""))
            yield extended(view.gpu_labels[sample.uuid], health_watch=watch, health_error_code=code), status


def _incidents(sample: GpuSample) -> Iterator[tuple[str, int, str]]:
    """(watch, status, DCGM's error code)."""
    fields, reasons = sample.fields, sample.clocks_event_reasons or 0
    if fields.get(4, 0) > 0:
        yield "MEM", _FAIL, "DCGM_FR_VOLATILE_DBE_DETECTED"
    if fields.get(31, 0) > 0:
        yield "MEM", _WARN, "DCGM_FR_PENDING_PAGE_RETIREMENTS"
    if fields.get(145, 0) > 0:
        yield "MEM", _FAIL, "DCGM_FR_ROW_REMAP_FAILURE"
    if fields.get(143, 0) >= _REMAPPED_ROWS_MAX:
        yield "MEM", _WARN, "DCGM_FR_UNCORRECTABLE_ROW_REMAP"
    if reasons & _THERMAL_BITS:
        yield "THERMAL", _WARN, "DCGM_FR_CLOCKS_EVENT_THERMAL"
    if reasons & _POWER_BITS:
        yield "POWER", _WARN, "DCGM_FR_CLOCKS_EVENT_POWER"
    if fields.get(230, 0) > 0:
        yield "DRIVER", _FAIL, "DCGM_FR_GPU_RECOVERY_RESET"


def _p2p(view: View) -> Samples:
    """Peers by NVML's index, as dcgm-exporter has them; the state is in a label besides."""
    found = {gpu.pci_address: (gpu.index, uuid) for uuid, gpu in view.node.gpus.items()}
    for links in view.nvlinks:
        for peer, status in links.p2p:
            if links.pci_address in found and peer in found:
                place = view.gpu_labels[found[links.pci_address][1]]
                text = P2P_STATUS.get(status, "Unknown")
                yield extended(place, peer_gpu=str(found[peer][0]), link_status=text), status


def _family(name: str, kind: Kind, text: str) -> Family:
    return Family(f"DCGM_EXP_{name}", kind, text)


COMPUTED_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    (_family("XID_ERRORS_COUNT", Kind.GAUGE, "Xid errors within the window, by code."), _xids_in_window),
    (_family("XID_ERRORS_TOTAL", Kind.COUNTER, "Xid errors since the agent started, by code."), _xids_in_total),
    (
        _family("CLOCK_EVENTS_COUNT", Kind.GAUGE, "Readings within the window that found the clocks held down."),
        _clock_events_in_window,
    ),
    (
        _family("CLOCK_EVENTS_TOTAL", Kind.COUNTER, "Readings that found the clocks held down, by what."),
        _clock_events_in_total,
    ),
    (_family("GPU_HEALTH_STATUS", Kind.GAUGE, "Health by watch: 0 pass, 10 warning, 20 failure."), _health),
    (_family("P2P_STATUS", Kind.GAUGE, "Peer-to-peer access over NVLink by peer: 0 OK, else why not."), _p2p),
)
