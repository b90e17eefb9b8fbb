"""Families of our own about GPUs: base units, true counters, and nothing that repeats itself per instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels
from nodeagent.metrics.gpu_family import GpuMetric, Shown
from nodeagent.metrics.sources import Conversion, Field, Getter
from nodeagent.state.gpu import MigMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nodeagent.metrics.view import View
    from nodeagent.state.gpu import Gpu

    Samples = Iterable[tuple[str, float]]

_NO_ID = 0  # DCGM has no such field
_POWER_LIMITS = (("min", 187), ("max", 188), ("default", 189))
_THRESHOLDS = (("shutdown", 193), ("slowdown", 194), ("memory_max", 195), ("gpu_max", 196))
_THROTTLES = (
    ("power", 74),
    ("thermal", 75),
    ("sync_boost", 76),
    ("board_limit", 77),
    ("low_utilization", 78),
    ("reliability", 79),
    ("app_clocks", 80),
    ("base_clocks", 81),
    ("software_thermal", 269),
    ("hardware_thermal", 270),
    ("hardware_power_brake", 271),
)
_PCIE_ERRORS = (
    ("recovery", 169),
    ("correctable", 173),
    ("nak_received", 174),
    ("receiver", 175),
    ("bad_tlp", 176),
    ("nak_sent", 177),
    ("bad_dllp", 178),
    ("non_fatal", 179),
    ("fatal", 180),
    ("unsupported_request", 181),
    ("lcrc", 182),
    ("lane", 183),
)
_NVLINK_ERRORS = (("replay", 161), ("recovery", 162), ("crc", 163))
_ECC = (
    ("corrected", "volatile", 3),
    ("uncorrected", "volatile", 4),
    ("corrected", "aggregate", 5),
    ("uncorrected", "aggregate", 6),
)


def _own(name: str, kind: Kind, text: str, source: Field | Getter, conversion: Conversion) -> GpuMetric:
    return GpuMetric(f"nodeagent_gpu_{name}", kind, text, _NO_ID, "base", source, conversion, Shown.DEFAULT)


def _memory(kind: str, text: str) -> GpuMetric:
    source = Getter(f"memory_{kind}_bytes", f"nvmlDeviceGetMemoryInfo_v2 .{kind}")
    return _own(f"memory_{kind}_bytes", Kind.GAUGE, text, source, Conversion.NONE)


OWN_GPU_METRICS: tuple[GpuMetric, ...] = (
    _memory("used", "Memory in use."),
    _memory("total", "Memory in total."),
    _own(
        "temperature_celsius",
        Kind.GAUGE,
        "Temperature of the GPU.",
        Getter("temperature_celsius", "nvmlDeviceGetTemperatureV"),
        Conversion.NONE,
    ),
    _own(
        "power_watts",
        Kind.GAUGE,
        "Power draw.",
        Getter("power_milliwatts", "nvmlDeviceGetPowerUsage"),
        Conversion.MILLI,
    ),
    _own(
        "energy_joules_total",
        Kind.COUNTER,
        "Energy since the driver was loaded.",
        Getter("energy_millijoules", "nvmlDeviceGetTotalEnergyConsumption"),
        Conversion.MILLI,
    ),
    _own(
        "sm_clock_hertz", Kind.GAUGE, "SM clock.", Getter("sm_clock_mhz", "nvmlDeviceGetClockInfo(SM)"), Conversion.MEGA
    ),
    _own(
        "utilization_ratio",
        Kind.GAUGE,
        "Share of time with work on the GPU; absent with MIG.",
        Getter("utilization_gpu_percent", "nvmlDeviceGetUtilizationRates .gpu"),
        Conversion.PERCENT,
    ),
    _own("nvlink_sent_bytes_total", Kind.COUNTER, "Data sent over all NVLinks.", Field((138,)), Conversion.FROM_KIB),
    _own(
        "nvlink_received_bytes_total",
        Kind.COUNTER,
        "Data received over all NVLinks.",
        Field((139,)),
        Conversion.FROM_KIB,
    ),
    _own("pcie_sent_bytes_total", Kind.COUNTER, "Bytes sent over PCIe.", Field((197,)), Conversion.NONE),
    _own("pcie_received_bytes_total", Kind.COUNTER, "Bytes received over PCIe.", Field((198,)), Conversion.NONE),
    _own(
        "recovery_action",
        Kind.GAUGE,
        "What the driver wants done: 0 nothing, 1 reset the GPU, 2 reboot, 3 drain peer-to-peer, 4 drain and reset.",
        Field((230,)),
        Conversion.NONE,
    ),
    _own(
        "read_seconds",
        Kind.GAUGE,
        "What the last reading of the GPU through NVML took.",
        Getter("read_seconds", "the agent"),
        Conversion.NONE,
    ),
)


def _by_field(name: str, rows: Iterable[tuple[str, int]], divisor: float = 1) -> Callable[[View], Samples]:
    """One series for each row that the GPU has the field of, with the row's word as a label."""

    def samples(view: View) -> Samples:
        for sample in view.known_samples:
            for word, number in rows:
                if number in sample.fields:
                    value = sample.fields[number]
                    yield (
                        labels(**view.gpu_identity(sample.uuid), **{name: word}),
                        value if divisor == 1 else value / divisor,
                    )

    return samples


def _ecc(view: View) -> Samples:
    for sample in view.known_samples:
        for kind, span, number in _ECC:
            if number in sample.fields:
                yield labels(**view.gpu_identity(sample.uuid), kind=kind, counted=span), sample.fields[number]


def _xids(view: View) -> Samples:
    """Counters from 0 for known errors; those of an instance stand under its id. A lost GPU keeps its own."""
    for uuid in _told_of(view):
        for (code, gi_id), count in sorted(view.tally_of(uuid).counts.items()):
            instance = "" if gi_id < 0 else str(gi_id)
            yield labels(**view.gpu_identity(uuid), xid=str(code), GPU_I_ID=instance), count


def _told_of(view: View) -> Iterator[str]:
    """The GPUs that answer, and those that have a history: the error that cost one is what matters of it."""
    answered = {sample.uuid for sample in view.known_samples}
    return (uuid for uuid in view.node.gpus if uuid in answered or uuid in view.tallies)


def _last_xid(view: View) -> Samples:
    for uuid in _told_of(view):
        seconds = view.tally_of(uuid).last_xid_seconds
        if seconds is not None:
            yield labels(**view.gpu_identity(uuid)), seconds


def _gpu_up(view: View) -> Samples:
    """1 for a GPU that answers; 0 for one that is lost or fenced off, which has no other but its Xids."""
    failed = {fault.uuid for fault in view.agent.gpu_faults}
    answered = {sample.uuid for sample in view.samples}
    for uuid in sorted(failed | answered | set(view.node.gpus)):
        yield labels(UUID=uuid), uuid in answered or (uuid not in failed and not answered)


def _gpu_info(view: View) -> Samples:
    for uuid, gpu in view.node.gpus.items():
        identity = view.gpu_identity(uuid)
        firmware = {"vbios": gpu.vbios, "inforom": gpu.inforom}
        pairs = {"pci_address": gpu.pci_address, "product": gpu.product, "minor": str(gpu.minor), **firmware}
        yield labels(**identity, **pairs), 1


def _mig_capable(view: View) -> Iterator[Gpu]:
    return (gpu for gpu in view.node.gpus.values() if gpu.mig_mode is not MigMode.UNSUPPORTED)


def _mig_mode(view: View) -> Samples:
    return ((labels(UUID=gpu.uuid), gpu.mig_mode is MigMode.ENABLED) for gpu in _mig_capable(view))


def _mig_mode_pending(view: View) -> Samples:
    return ((labels(UUID=gpu.uuid), gpu.pending_mig_mode is MigMode.ENABLED) for gpu in _mig_capable(view))


def _mig_instances(view: View) -> Samples:
    """A zero for each profile the board offers, so that a vanished instance is a change and not a gap."""
    for gpu in _mig_capable(view):
        counts = dict.fromkeys((profile.name for profile in gpu.profiles), 0)
        for instance in gpu.instances:
            counts[instance.profile] = counts.get(instance.profile, 0) + 1
        for profile, count in counts.items():
            yield labels(UUID=gpu.uuid, profile=profile), count


def _instance_info(view: View) -> Samples:
    """The way from dcgm-exporter's instance labels to the MIG devices that users and schedulers name."""
    for gpu in view.node.gpus.values():
        for instance in gpu.instances:
            for compute in instance.compute_instances:
                yield (
                    labels(
                        gpu=str(gpu.index),
                        UUID=gpu.uuid,
                        GPU_I_PROFILE=instance.profile,
                        GPU_I_ID=str(instance.gi_id),
                        mig_uuid=compute.uuid,
                        compute_profile=compute.profile,
                        placement=f"{instance.placement.start}:{instance.placement.size}",
                    ),
                    1,
                )


GPU_FAMILIES: tuple[tuple[Family, Callable[[View], Samples]], ...] = (
    (Family("nodeagent_gpu_up", Kind.GAUGE, "Whether the GPU answers; 0: lost, or fenced off after it hung."), _gpu_up),
    (Family("nodeagent_gpu_info", Kind.GAUGE, "The GPUs of the node, always 1."), _gpu_info),
    (Family("nodeagent_gpu_mig_mode", Kind.GAUGE, "Whether MIG is enabled on the GPU."), _mig_mode),
    (
        Family("nodeagent_gpu_mig_mode_pending", Kind.GAUGE, "MIG mode after the next reset of the GPU."),
        _mig_mode_pending,
    ),
    (Family("nodeagent_gpu_mig_instances", Kind.GAUGE, "GPU instances by profile."), _mig_instances),
    (Family("nodeagent_gpu_mig_device_info", Kind.GAUGE, "MIG devices and where they are, always 1."), _instance_info),
    (Family("nodeagent_gpu_xid_errors_total", Kind.COUNTER, "Xid errors since the agent started."), _xids),
    (
        Family("nodeagent_gpu_last_xid_timestamp_seconds", Kind.GAUGE, "When the last Xid error was seen (Unix time)."),
        _last_xid,
    ),
    (
        Family("nodeagent_gpu_throttled_seconds_total", Kind.COUNTER, "Time the clocks were held down, by what."),
        _by_field("reason", _THROTTLES, 1e9),
    ),
    (Family("nodeagent_gpu_pcie_errors_total", Kind.COUNTER, "PCIe errors by kind."), _by_field("kind", _PCIE_ERRORS)),
    (
        Family("nodeagent_gpu_nvlink_errors_total", Kind.COUNTER, "NVLink errors by kind (Hopper)."),
        _by_field("kind", _NVLINK_ERRORS),
    ),
    (Family("nodeagent_gpu_ecc_errors_total", Kind.COUNTER, "ECC errors."), _ecc),
    (
        Family("nodeagent_gpu_power_limit_watts", Kind.GAUGE, "Power limits of the board."),
        _by_field("limit", _POWER_LIMITS, 1000),
    ),
    (
        Family("nodeagent_gpu_temperature_threshold_celsius", Kind.GAUGE, "Temperatures at which the GPU acts."),
        _by_field("threshold", _THRESHOLDS),
    ),
)
