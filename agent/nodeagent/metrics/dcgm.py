"""The DCGM families as one table: name, DCGM field id, type, unit, help, source, conversion.

Names, types, units and labels are dcgm-exporter's (names of its releases up to 4.8), so that dashboards and alerts
written for it work. Where a value comes from follows NVML, not DCGM: what NVML cannot give is absent.
Sources: NVIDIA/dcgm-exporter etc/default-counters.csv and etc/dcp-metrics-included.csv, NVIDIA/DCGM dcgm_fields.h.
"""

from __future__ import annotations

from nodeagent.metrics.dcgm_profiling import CACHES, PROFILING, TOTALS
from nodeagent.metrics.exposition import Kind
from nodeagent.metrics.gpu_family import GpuMetric, Shown
from nodeagent.metrics.sources import Conversion, Counted, Field, Getter, Source

_GAUGE, _COUNTER = Kind.GAUGE, Kind.COUNTER
_COMMENTED, _ON_REQUEST = Shown.COMMENTED, Shown.ON_REQUEST
_MILLI, _MIB = Conversion.MILLI, Conversion.MIB
_Row = tuple[str, int, Kind, str, str, Source, Conversion, Shown]


def _dev(name: str, field_id: int, kind: Kind, unit: str, text: str) -> tuple[str, int, Kind, str, str]:
    return f"DCGM_FI_DEV_{name}", field_id, kind, unit, text


def _metric(
    head: tuple[str, int, Kind, str, str],
    source: Source,
    conversion: Conversion = Conversion.NONE,
    shown: Shown = Shown.DEFAULT,
) -> GpuMetric:
    name, field_id, kind, unit, text = head
    return GpuMetric(name, kind, text, field_id, unit, source, conversion, shown)


def _clock(attribute: str, which: str) -> Getter:
    return Getter(attribute, f"nvmlDeviceGetClockInfo({which})")


def _memory(kind: str) -> Getter:
    return Getter(f"memory_{kind}_bytes", f"nvmlDeviceGetMemoryInfo_v2 .{kind}", on_instances=True)


_ENERGY = Getter("energy_millijoules", "nvmlDeviceGetTotalEnergyConsumption")
_POWER = Getter("power_milliwatts", "nvmlDeviceGetPowerUsage")

SENSORS = (
    _metric(_dev("SM_CLOCK", 100, _GAUGE, "MHz", "SM clock frequency (in MHz)."), _clock("sm_clock_mhz", "SM")),
    _metric(
        _dev("MEM_CLOCK", 101, _GAUGE, "MHz", "Memory clock frequency (in MHz)."), _clock("memory_clock_mhz", "MEM")
    ),
    _metric(
        _dev("VIDEO_CLOCK", 102, _GAUGE, "MHz", "Video clock frequency (in MHz)."),
        _clock("video_clock_mhz", "VIDEO"),
        shown=_ON_REQUEST,
    ),
    _metric(
        _dev("CLOCKS_EVENT_REASONS", 112, _GAUGE, "bit mask", "Why the clocks are held down (bit mask)."),
        Getter("clocks_event_reasons", "nvmlDeviceGetCurrentClocksEventReasons"),
        shown=_ON_REQUEST,
    ),
    _metric(_dev("MEMORY_TEMP", 140, _GAUGE, "C", "Memory temperature (in C)."), Field((82,))),
    _metric(
        _dev("GPU_TEMP", 150, _GAUGE, "C", "GPU temperature (in C)."),
        Getter("temperature_celsius", "nvmlDeviceGetTemperatureV"),
    ),
    _metric(_dev("POWER_USAGE", 155, _GAUGE, "W", "Power draw (in W)."), _POWER, _MILLI),
    _metric(
        _dev("TOTAL_ENERGY_CONSUMPTION", 156, _COUNTER, "mJ", "Total energy since the driver was loaded (in mJ)."),
        _ENERGY,
    ),
    _metric(
        _dev("POWER_USAGE_INSTANT", 157, _GAUGE, "W", "Power draw at this moment (in W)."),
        Field((186,)),
        _MILLI,
        _ON_REQUEST,
    ),
    _metric(
        _dev("POWER_MGMT_LIMIT", 160, _GAUGE, "W", "Power limit that was asked for (in W)."),
        Getter("power_limit_milliwatts", "nvmlDeviceGetPowerManagementLimit"),
        _MILLI,
        _ON_REQUEST,
    ),
    _metric(
        _dev("ENFORCED_POWER_LIMIT", 164, _GAUGE, "W", "Power limit in force (in W)."),
        Getter("enforced_power_limit_milliwatts", "nvmlDeviceGetEnforcedPowerLimit"),
        _MILLI,
        _ON_REQUEST,
    ),
    _metric(
        _dev("PSTATE", 190, _GAUGE, "0-15", "Performance state, 0 the fastest."),
        Getter("performance_state", "nvmlDeviceGetPerformanceState"),
        shown=_ON_REQUEST,
    ),
    _metric(
        _dev("FAN_SPEED", 191, _GAUGE, "%", "Fan speed (in %)."),
        Getter("fan_percent", "nvmlDeviceGetFanSpeed"),
        shown=_ON_REQUEST,
    ),
)

LINK_TO_HOST = (
    _metric(_dev("PCIE_REPLAY_COUNTER", 202, _COUNTER, "count", "Total number of PCIe retries."), Field((94,))),
    *(
        _metric(
            _dev(f"PCIE_{name}", field_id, _GAUGE, unit, f"PCIe link {text}."),
            Getter(attribute, f"nvmlDeviceGet{function}"),
            shown=_ON_REQUEST,
        )
        for name, field_id, unit, text, attribute, function in (
            ("MAX_LINK_GEN", 235, "generation", "generation at most", "pcie_generation_max", "MaxPcieLinkGeneration"),
            ("MAX_LINK_WIDTH", 236, "lanes", "width at most", "pcie_width_max", "MaxPcieLinkWidth"),
            ("LINK_GEN", 237, "generation", "generation now", "pcie_generation", "CurrPcieLinkGeneration"),
            ("LINK_WIDTH", 238, "lanes", "width now", "pcie_width", "CurrPcieLinkWidth"),
        )
    ),
)

UTILIZATION = tuple(
    _metric(_dev(name, field_id, _GAUGE, "%", text), Getter(attribute, f"nvmlDeviceGet{function}"))
    for name, field_id, text, attribute, function in (
        ("GPU_UTIL", 203, "GPU utilization (in %).", "utilization_gpu_percent", "UtilizationRates .gpu"),
        (
            "MEM_COPY_UTIL",
            204,
            "Share of time with memory traffic (in %).",
            "utilization_memory_percent",
            "UtilizationRates .memory",
        ),
        ("ENC_UTIL", 206, "Encoder utilization (in %).", "encoder_percent", "EncoderUtilization"),
        ("DEC_UTIL", 207, "Decoder utilization (in %).", "decoder_percent", "DecoderUtilization"),
    )
)

ERRORS = (
    _metric(
        _dev("XID_ERRORS", 230, _GAUGE, "Xid", "The last Xid error since the agent started, 0: none."),
        Counted("last_xid", "nvmlEventSetWait_v2, Xid events"),
    ),
    *(
        _metric(
            _dev(
                f"{name}_VIOLATION", 240 + offset, _COUNTER, "ns", f"Time the clocks were held down by {text} (in ns)."
            ),
            Field((74 + offset,)),
            shown=_COMMENTED,
        )
        for offset, (name, text) in enumerate(
            (
                ("POWER", "the power limit"),
                ("THERMAL", "temperature"),
                ("SYNC_BOOST", "sync boost"),
                ("BOARD_LIMIT", "a limit of the board"),
                ("LOW_UTIL", "low utilization"),
                ("RELIABILITY", "a reliability limit"),
            )
        )
    ),
    *(
        _metric(
            _dev(f"CLOCKS_EVENT_REASON_{name}_NS", field_id, _COUNTER, "ns", f"Time under {text} (in ns)."),
            Field((number,)),
            shown=_ON_REQUEST,
        )
        for name, field_id, number, text in (
            ("SW_POWER_CAP", 1420, 74, "the software power cap"),
            ("SYNC_BOOST", 1421, 76, "sync boost"),
            ("SW_THERM_SLOWDOWN", 1422, 269, "software thermal slowdown"),
            ("HW_THERM_SLOWDOWN", 1423, 270, "hardware thermal slowdown"),
            ("HW_POWER_BRAKE_SLOWDOWN", 1424, 271, "the hardware power brake"),
        )
    ),
)

MEMORY = (
    _metric(_dev("FB_TOTAL", 250, _GAUGE, "MiB", "Memory in total (in MiB)."), _memory("total"), _MIB, _ON_REQUEST),
    _metric(_dev("FB_FREE", 251, _GAUGE, "MiB", "Memory free (in MiB)."), _memory("free"), _MIB),
    _metric(_dev("FB_USED", 252, _GAUGE, "MiB", "Memory used (in MiB)."), _memory("used"), _MIB),
    _metric(
        _dev("FB_RESERVED", 253, _GAUGE, "MiB", "Memory reserved by the driver (in MiB)."), _memory("reserved"), _MIB
    ),
    _metric(
        _dev("FB_USED_PERCENT", 254, _GAUGE, "0..1", "Memory used, of what is not reserved (0 to 1)."),
        Getter("memory_used_ratio", "nvmlDeviceGetMemoryInfo_v2 .used / (.total - .reserved)", on_instances=True),
        shown=_ON_REQUEST,
    ),
    *(
        _metric(
            _dev(f"ECC_{kind}_{span}_TOTAL", field_id, _COUNTER, "count", f"Total number of {text} ECC errors."),
            Field((number,)),
            shown=_COMMENTED,
        )
        for kind, span, field_id, number, text in (
            ("SBE", "VOL", 310, 3, "single-bit volatile"),
            ("DBE", "VOL", 311, 4, "double-bit volatile"),
            ("SBE", "AGG", 312, 5, "single-bit persistent"),
            ("DBE", "AGG", 313, 6, "double-bit persistent"),
        )
    ),
    *(
        _metric(_dev(f"RETIRED_{name}", field_id, _COUNTER, "pages", text), Field((number,)), shown=_COMMENTED)
        for name, field_id, number, text in (
            ("SBE", 390, 29, "Pages retired because of single-bit errors."),
            ("DBE", 391, 30, "Pages retired because of double-bit errors."),
            ("PENDING", 392, 31, "Whether pages wait to be retired."),
        )
    ),
    _metric(
        _dev("UNCORRECTABLE_REMAPPED_ROWS", 393, _COUNTER, "rows", "Rows remapped for uncorrectable errors."),
        Field((143,)),
    ),
    _metric(
        _dev("CORRECTABLE_REMAPPED_ROWS", 394, _COUNTER, "rows", "Rows remapped for correctable errors."), Field((142,))
    ),
    _metric(_dev("ROW_REMAP_FAILURE", 395, _GAUGE, "0/1", "Whether remapping of rows has failed."), Field((145,))),
    _metric(
        _dev("ROW_REMAP_PENDING", 396, _GAUGE, "0/1", "Whether rows wait to be remapped."),
        Field((144,)),
        shown=_ON_REQUEST,
    ),
)

NVLINK = (
    *(
        _metric(
            _dev(f"NVLINK_{name}_ERROR_COUNT_TOTAL", field_id, _COUNTER, "count", f"Total number of NVLink {text}."),
            Field(numbers),
            shown=_COMMENTED,
        )
        for name, field_id, numbers, text in (
            ("CRC_FLIT", 409, (38,), "flow-control CRC errors"),
            ("CRC_DATA", 419, (45,), "data CRC errors"),
            ("REPLAY", 429, (52,), "retries"),
            ("RECOVERY", 439, (59,), "recovery errors"),
        )
    ),
    _metric(
        _dev(
            "NVLINK_BANDWIDTH_TOTAL", 449, _GAUGE, "MB/s", "NVLink data rate, all links and both directions (in MB/s)."
        ),
        Counted("nvlink_megabytes_per_second", "fields 138 + 139, difference over time"),
    ),
)


DCGM_METRICS: tuple[GpuMetric, ...] = (
    *SENSORS,
    *LINK_TO_HOST,
    *UTILIZATION,
    *ERRORS,
    *MEMORY,
    *NVLINK,
    *PROFILING,
    *CACHES,
    *TOTALS,
)
