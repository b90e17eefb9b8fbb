"""Checks of GPUs by what NVML says of each; pure. A value that a GPU does not have makes no finding.

Sources: nvml.h (field ids, nvmlClocksEventReasons, nvmlGpuFabricInfoV_t); thresholds as in docs/health.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nodeagent.health.look import FAILED, WARNING, Look, bad, ok, unknown
from nodeagent.health.recovery import driver_action
from nodeagent.state.gpu import Fabric, GpuSample
from nodeagent.state.health import Finding, Recovery, Subject, Verdict

ECC_CORRECTED, ECC_UNCORRECTED, ECC_EVER = 3, 4, 6  # volatile single, volatile double, aggregate double
RETIRED_SINGLE, RETIRED_DOUBLE, RETIRED_PENDING = 29, 30, 31
REMAP_UNCORRECTABLE, REMAP_PENDING, REMAP_FAILED = 143, 144, 145
PCIE_REPLAYS, PCIE_FATAL = 94, 180
NVLINK_ERRORS = (52, 59, 161, 162)  # replays and recoveries, before Hopper and since
RECOVERY_ACTION = 230
HELD_DOWN = ((269, "software heat limit"), (270, "hardware heat limit"), (271, "power brake"))
EVENT_BITS = (
    (0x8, "hardware slowdown"),
    (0x20, "software heat limit"),
    (0x40, "hardware heat limit"),
    (0x80, "power brake"),
)
COUNTERS = (ECC_CORRECTED, PCIE_REPLAYS, *NVLINK_ERRORS, *(number for number, _ in HELD_DOWN))
HOUR, MINUTE = 3600.0, 60.0
JOINING_SECONDS = 300.0
BUSY_PERCENT = 50  # an idle GPU slows its PCIe link down to save power
# DCGM's replays per minute and lane, by generation (modules/health/DcgmHealthWatch.cpp).
REPLAYS_PER_LANE = {1: 0.15, 2: 0.3, 3: 0.48, 4: 0.96, 5: 1.92, 6: 3.84}
RESET_IDLE = "let the jobs end, then reset the GPU"

GpuCheck = Callable[[Look, Subject, GpuSample], Iterator[Finding]]


def check_gpus(look: Look) -> Iterator[Finding]:
    for uuid, sample in look.seen.samples.items():
        subject = look.who.gpu(uuid)
        for check in GPU_CHECKS:
            yield from check(look, subject, sample)


def _recovery(_look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    value = sample.fields.get(RECOVERY_ACTION)
    if value is None:
        return
    action = driver_action(int(value))
    if action.verdict is Verdict.OK:
        yield ok(gpu, "recovery-action", "the driver wants nothing done")
        return
    yield Finding(
        gpu,
        "recovery-action",
        action.verdict,
        f"the driver asks: {action.name}",
        "the driver found the GPU in need of recovery",
        action.advice,
        action.recovery,
        by_driver=True,
    )


def _ecc(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    uncorrected, ever = sample.fields.get(ECC_UNCORRECTED), sample.fields.get(ECC_EVER)
    if uncorrected is None:
        return
    grown = look.windows.growth((gpu.name, str(ECC_CORRECTED)))
    rate = grown.per(HOUR, floor_seconds=look.spec.limits.window_seconds) if grown else 0.0
    if uncorrected > 0:
        said = (
            f"{uncorrected:.0f} uncorrectable since the driver was loaded, {ever or 0:.0f} ever",
            "memory errors that could not be corrected",
            RESET_IDLE,
        )
        yield bad(gpu, "ecc", WARNING, said, Recovery.RESET_GPU)
    elif rate > look.spec.limits.ecc_corrected_per_hour:
        said = (f"{rate:.0f} corrected an hour", "memory that corrects many errors", "watch the row remapping")
        yield bad(gpu, "ecc", WARNING, said, Recovery.NONE)
    else:
        yield ok(gpu, "ecc", f"none uncorrectable since the driver was loaded, {ever or 0:.0f} ever")


def _sram(_look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    exceeded = sample.sram_threshold_exceeded
    if exceeded is None:
        return
    if exceeded:
        said = (
            "the driver says that their threshold is exceeded",
            "too many uncorrectable errors of the memory on the chip, which has no spare rows",
            "replace the GPU",
        )
        yield bad(gpu, "sram", FAILED, said, Recovery.INSPECT)
    else:
        yield ok(gpu, "sram", "below the threshold")


def _row_remap(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    failed, pending = sample.fields.get(REMAP_FAILED), sample.fields.get(REMAP_PENDING)
    if failed is None:
        return
    rows = sample.fields.get(REMAP_UNCORRECTABLE, 0)
    evidence = f"{rows:.0f} rows remapped for uncorrectable errors"
    if failed:
        said = (f"a remapping failed; {evidence}", "no spare row is left in a bank", "replace the GPU")
        yield bad(gpu, "row-remap", FAILED, said, Recovery.INSPECT)
    elif pending:
        said = (f"a remapping waits for a reset; {evidence}", "a bad row is still in use", RESET_IDLE)
        yield bad(gpu, "row-remap", WARNING, said, Recovery.RESET_GPU)
    elif rows >= look.spec.limits.remapped_rows:
        said = (evidence, "the spare rows are nearly used up", "plan to replace the GPU")
        yield bad(gpu, "row-remap", WARNING, said, Recovery.SUPPORT)
    else:
        yield ok(gpu, "row-remap", evidence)


def _retired_pages(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    single, double = sample.fields.get(RETIRED_SINGLE), sample.fields.get(RETIRED_DOUBLE)
    if single is None or double is None:
        return
    pages, limit = single + double, look.spec.limits.retired_pages
    evidence = f"{pages:.0f} pages retired, {double:.0f} of them for uncorrectable errors"
    if pages >= limit:
        said = (evidence, "no more pages can be retired", "replace the GPU")
        yield bad(gpu, "retired-pages", FAILED, said, Recovery.INSPECT)
    elif sample.fields.get(RETIRED_PENDING):
        said = (f"a retirement waits for a reset; {evidence}", "a bad page is still in use", RESET_IDLE)
        yield bad(gpu, "retired-pages", WARNING, said, Recovery.RESET_GPU)
    elif pages >= limit - 3:
        said = (evidence, "hardly any more pages can be retired", "plan to replace the GPU")
        yield bad(gpu, "retired-pages", WARNING, said, Recovery.SUPPORT)
    else:
        yield ok(gpu, "retired-pages", evidence)


def _temperature(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    margin = sample.temperature_margin_celsius
    if margin is None:
        return
    evidence = f"{sample.temperature_celsius} C, {margin} C below slowing down"
    said = (evidence, "the GPU is too hot", "look at fans, air flow and inlet temperature")
    if margin <= 0:
        yield bad(gpu, "temperature", FAILED, said, Recovery.INSPECT)
    elif margin <= look.spec.limits.temperature_margin_celsius:
        yield bad(gpu, "temperature", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(gpu, "temperature", evidence)


def _clocks(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    """Clocks held down by heat or power; the power cap of a busy GPU is ordinary and is not counted."""
    shares = [(_share(look, gpu, number), name) for number, name in HELD_DOWN if number in sample.fields]
    bits = sample.clocks_event_reasons
    if bits is None and not shares:
        return
    now = [name for bit, name in EVENT_BITS if (bits or 0) & bit]
    share, name = max(shares, default=(0.0, ""))
    limits = look.spec.limits
    reasons = ", ".join(dict.fromkeys([*([name] if share > 0 else []), *now]))
    said = (
        f"held down {share:.0%} of the time: {reasons}",
        "heat or power holds the clocks down",
        "look at cooling and power",
    )
    if share > limits.throttle_failed_ratio:
        yield bad(gpu, "clocks", FAILED, said, Recovery.INSPECT)
    elif share > limits.throttle_warning_ratio or (now and not shares):
        yield bad(gpu, "clocks", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(gpu, "clocks", f"held down {share:.0%} of the time" + (f" ({reasons})" if reasons else ""))


def _share(look: Look, gpu: Subject, number: int) -> float:
    grown = look.windows.growth((gpu.name, str(number)))
    return min(1.0, grown.ratio * 1e-9) if grown else 0.0


def _nvlink(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    found = look.seen.node.gpus.get(gpu.name)
    if not sample.nvlinks or (found and found.mig_mode == "enabled"):  # MIG shows its links as down
        return
    up = sum(sample.nvlinks)
    expected = look.spec.expect.nvlinks or look.learned.nvlinks.get(gpu.name, 0)
    down = ", ".join(str(number) for number, is_up in enumerate(sample.nvlinks) if not is_up)
    if up < expected:
        said = (
            f"{up} of {expected} links are up, down are {down}",
            "NVLinks are down",
            "see the log for Xid 74 or 149; reset the GPU",
        )
        yield bad(gpu, "nvlink", FAILED, said, Recovery.RESET_GPU)
    else:
        yield ok(gpu, "nvlink", f"{up} links are up")


def _nvlink_errors(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    counted = [number for number in NVLINK_ERRORS if number in sample.fields]
    if not counted:
        return
    grown = [growth for number in counted if (growth := look.windows.growth((gpu.name, str(number))))]
    rate = sum(growth.per(MINUTE) for growth in grown)
    if rate > look.spec.limits.nvlink_errors_per_minute:
        said = (
            f"{rate:.1f} replays and recoveries a minute",
            "NVLink signal is poor",
            "check the links; reset the GPU",
        )
        yield bad(gpu, "nvlink-errors", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(gpu, "nvlink-errors", f"{rate:.1f} replays and recoveries a minute")


_FABRIC_STATES = {1: "not started", 2: "in progress", 3: "completed"}
_HEALTH_GROUPS = (
    (0, "bandwidth is degraded"),
    (2, "a route is recovering"),
    (4, "a route is unhealthy"),
    (6, "access times out"),
)


def _fabric(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    fabric = sample.fabric
    if fabric is None or fabric.state not in _FABRIC_STATES:
        return
    evidence = f"registration {_FABRIC_STATES[fabric.state]}, status {fabric.status}" + _troubles(fabric)
    fix = "see the fabric manager's log; restart it when its GPUs are idle"
    if fabric.state != 3:
        late = look.seen.now - look.joining_since.get(gpu.name, look.seen.now) > JOINING_SECONDS
        said = (evidence, "the GPU has not joined the NVLink fabric", fix)
        yield bad(gpu, "fabric", FAILED if late else WARNING, said, Recovery.RESTART_FABRIC)
    elif fabric.summary == 2 or fabric.status:
        yield bad(gpu, "fabric", FAILED, (evidence, "the NVLink fabric is unhealthy", fix), Recovery.RESTART_FABRIC)
    elif fabric.summary == 3 or _troubles(fabric):
        yield bad(gpu, "fabric", WARNING, (evidence, "the NVLink fabric is limited", fix), Recovery.RESTART_FABRIC)
    else:
        yield ok(gpu, "fabric", evidence)


def _troubles(fabric: Fabric) -> str:
    """Groups of two bits in the health mask: 1 is true."""
    return "".join(f", {name}" for shift, name in _HEALTH_GROUPS if fabric.health_mask >> shift & 3 == 1)


def _pcie_link(_look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    width, widest = sample.pcie_width, sample.pcie_width_max
    if not width or not widest:
        return
    generation, newest = sample.pcie_generation or 0, sample.pcie_generation_max or 0
    evidence = f"x{width} of x{widest}, generation {generation} of {newest}"
    busy = (sample.utilization_gpu_percent or 0) >= BUSY_PERCENT
    if width < widest or (busy and generation < newest):
        said = (
            evidence,
            "the PCIe link is slower than card and slot can",
            "reseat the card; check slot, riser and retimer",
        )
        yield bad(gpu, "pcie-link", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(gpu, "pcie-link", evidence)


def _pcie_errors(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    if PCIE_REPLAYS not in sample.fields and PCIE_FATAL not in sample.fields:
        return
    grown = look.windows.growth((gpu.name, str(PCIE_REPLAYS)))
    rate = grown.per(MINUTE) if grown else 0.0
    lanes = (sample.pcie_width or 16) * REPLAYS_PER_LANE.get(sample.pcie_generation or 0, REPLAYS_PER_LANE[6])
    limit = look.spec.limits.pcie_replays_per_minute or lanes
    fatal = sample.fields.get(PCIE_FATAL, 0)
    evidence = f"{rate:.1f} replays a minute, {fatal:.0f} fatal errors"
    said = (evidence, "the PCIe link has errors", "reseat the card; check slot, riser and retimer")
    if fatal:
        yield bad(gpu, "pcie-errors", FAILED, said, Recovery.INSPECT)
    elif rate > limit:
        yield bad(gpu, "pcie-errors", WARNING, said, Recovery.INSPECT)
    else:
        yield ok(gpu, "pcie-errors", evidence)


def _persistence(look: Look, gpu: Subject, sample: GpuSample) -> Iterator[Finding]:
    wanted = look.spec.expect.persistence_mode
    if wanted is None:
        return
    if sample.persistence is None:
        yield unknown(gpu, "persistence", "the driver does not say")
    elif sample.persistence is not wanted:
        said = (
            f"persistence mode is {'on' if sample.persistence else 'off'}",
            "it is not as expected",
            "start nvidia-persistenced, or run nvidia-smi -pm",
        )
        yield bad(gpu, "persistence", WARNING, said, Recovery.CONFIGURE)
    else:
        yield ok(gpu, "persistence", "as expected")


GPU_CHECKS: tuple[GpuCheck, ...] = (
    _recovery,
    _ecc,
    _sram,
    _row_remap,
    _retired_pages,
    _temperature,
    _clocks,
    _nvlink,
    _nvlink_errors,
    _fabric,
    _pcie_link,
    _pcie_errors,
    _persistence,
)
