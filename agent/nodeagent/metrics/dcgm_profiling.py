"""The DCGM families that come from GPM, on Hopper and later: DCGM_FI_PROF_*.

Which GPM metric is which field: NVIDIA/DCGM dcgmlib/src/dcgm_fields.cpp (DcgmFieldIdToNvmlGpmMetricId, and whether
instances have one: entity levels); nvml.h, nvmlGpmMetricId_t.
"""

from __future__ import annotations

from nodeagent.metrics.exposition import Kind
from nodeagent.metrics.gpu_family import GpuMetric, Shown
from nodeagent.metrics.sources import Conversion, Gpm

_COMMENTED, _ON_REQUEST = Shown.COMMENTED, Shown.ON_REQUEST
_PERCENT, _FROM_MIB = Conversion.PERCENT, Conversion.FROM_MIB


def _prof(
    head: tuple[str, int, str, str],
    number: int,
    conversion: Conversion = Conversion.NONE,
    shown: Shown = Shown.ON_REQUEST,
    on_instances: bool = True,
) -> GpuMetric:
    name, field_id, unit, text = head
    source = Gpm(number, on_instances)
    return GpuMetric(f"DCGM_FI_PROF_{name}", Kind.GAUGE, text, field_id, unit, source, conversion, shown)


PROFILING = (
    *(
        _prof((name, field_id, "0..1", text), number, _PERCENT, shown)
        for name, field_id, number, shown, text in (
            ("GR_ENGINE_ACTIVE", 1001, 1, Shown.DEFAULT, "Ratio of time the graphics engine is active."),
            ("SM_ACTIVE", 1002, 2, _COMMENTED, "The ratio of cycles an SM has at least 1 warp assigned."),
            ("SM_OCCUPANCY", 1003, 3, _COMMENTED, "The ratio of number of warps resident on an SM."),
            ("PIPE_TENSOR_ACTIVE", 1004, 5, Shown.DEFAULT, "Ratio of cycles the tensor pipe is active."),
            ("DRAM_ACTIVE", 1005, 10, Shown.DEFAULT, "Ratio of cycles the device memory interface moves data."),
            ("PIPE_FP64_ACTIVE", 1006, 11, _COMMENTED, "Ratio of cycles the fp64 pipes are active."),
            ("PIPE_FP32_ACTIVE", 1007, 12, _COMMENTED, "Ratio of cycles the fp32 pipes are active."),
            ("PIPE_FP16_ACTIVE", 1008, 13, _COMMENTED, "Ratio of cycles the fp16 pipes are active."),
            ("PIPE_TENSOR_IMMA_ACTIVE", 1013, 9, _ON_REQUEST, "Ratio of cycles the integer tensor pipe is active."),
            ("PIPE_TENSOR_HMMA_ACTIVE", 1014, 7, _ON_REQUEST, "Ratio of cycles the half tensor pipe is active."),
            ("PIPE_TENSOR_DFMA_ACTIVE", 1015, 6, _ON_REQUEST, "Ratio of cycles the double tensor pipe is active."),
            ("PIPE_INT_ACTIVE", 1016, 4, _ON_REQUEST, "Ratio of cycles the integer pipe is active."),
        )
    ),
    *(
        _prof(
            (f"{engine}{unit}_ACTIVE", first + unit, "0..1", f"Ratio of time {engine} {unit} is active."),
            gpm + unit,
            _PERCENT,
            _ON_REQUEST,
        )
        for engine, first, gpm, units in (("NVDEC", 1017, 30, 8), ("NVJPG", 1025, 40, 8), ("NVOFA", 1033, 50, 2))
        for unit in range(units)
    ),
    *(
        _prof(
            (f"{name}_BYTES", field_id, "B/s", f"Bytes a second {text}."), number, _FROM_MIB, shown, on_instances=False
        )
        for name, field_id, number, shown, text in (
            ("PCIE_TX", 1009, 20, Shown.DEFAULT, "sent over PCIe, headers and payload"),
            ("PCIE_RX", 1010, 21, Shown.DEFAULT, "received over PCIe, headers and payload"),
            ("NVLINK_TX", 1011, 61, _ON_REQUEST, "sent over all NVLinks"),
            ("NVLINK_RX", 1012, 60, _ON_REQUEST, "received over all NVLinks"),
            ("C2C_TX_ALL", 1076, 100, _ON_REQUEST, "sent over C2C, headers and payload"),
            ("C2C_TX_DATA", 1077, 102, _ON_REQUEST, "sent over C2C, payload"),
            ("C2C_RX_ALL", 1078, 101, _ON_REQUEST, "received over C2C, headers and payload"),
            ("C2C_RX_DATA", 1079, 103, _ON_REQUEST, "received over C2C, payload"),
        )
    ),
    *(
        _prof(
            (
                f"NVLINK_L{link}_{way}_BYTES",
                1040 + 2 * link + (way == "RX"),
                "B/s",
                f"Bytes a second {verb} over NVLink {link}.",
            ),
            62 + 2 * link + (way == "TX"),
            _FROM_MIB,
            _ON_REQUEST,
            on_instances=False,
        )
        for link in range(18)
        for way, verb in (("TX", "sent"), ("RX", "received"))
    ),
)

CACHES = tuple(
    _prof(
        (f"{name}_CACHE_{result}", field_id, "%", f"Requests to {text} that the cache {verb} (in %)."),
        number,
        on_instances=False,
    )
    for name, result, field_id, number, text, verb in (
        ("HOSTMEM", "HIT", 1080, 160, "host memory", "served"),
        ("HOSTMEM", "MISS", 1081, 161, "host memory", "missed"),
        ("PEERMEM", "HIT", 1082, 162, "peer memory", "served"),
        ("PEERMEM", "MISS", 1083, 163, "peer memory", "missed"),
    )
)


def _total(name: str, ids: tuple[int, int], unit: str, text: str) -> GpuMetric:
    field_id, number = ids
    family = (f"DCGM_FI_PROF_{name}_TOTAL", Kind.COUNTER, f"{text} since reboot.")
    return GpuMetric(*family, field_id, unit, Gpm(number, on_instances=False), shown=_ON_REQUEST)


TOTALS = tuple(
    _total(name, ids, unit, text)
    for name, ids, unit, text in (
        ("SM_CYCLES_ELAPSED", (1084, 248), "cycles", "SM cycles"),
        ("SM_CYCLES_ACTIVE", (1085, 249), "cycles", "SM cycles with a warp assigned"),
        ("MMA_CYCLES_ACTIVE", (1086, 250), "cycles", "SM cycles with any tensor work"),
        ("DMMA_CYCLES_ACTIVE", (1087, 251), "cycles", "SM cycles with DMMA tensor work"),
        ("HMMA_CYCLES_ACTIVE", (1088, 252), "cycles", "SM cycles with HMMA tensor work"),
        ("IMMA_CYCLES_ACTIVE", (1089, 253), "cycles", "SM cycles with IMMA tensor work"),
        ("DFMA_CYCLES_ACTIVE", (1090, 254), "cycles", "SM cycles with DFMA tensor work"),
        ("PCIE_TX_BYTES", (1091, 255), "B", "Bytes sent over PCIe"),
        ("PCIE_RX_BYTES", (1092, 256), "B", "Bytes received over PCIe"),
        ("INT_CYCLES_ACTIVE", (1093, 257), "cycles", "SM cycles with integer work"),
        ("FP64_CYCLES_ACTIVE", (1094, 258), "cycles", "SM cycles with fp64 work"),
        ("FP32_CYCLES_ACTIVE", (1095, 259), "cycles", "SM cycles with fp32 work"),
        ("FP16_CYCLES_ACTIVE", (1096, 260), "cycles", "SM cycles with fp16 work"),
    )
)
"""Counters of whole GPUs: DCGM has none of instances (dcgm_fields.cpp, DCGM_FE_GPU); nvml.h says nothing of them."""
