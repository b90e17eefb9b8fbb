"""Each check sees its trouble within one cycle on the one device that has it, and lets go when the cause does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from nodeagent.health.check_table import CHECKS
from nodeagent.health.monitor import Before, Monitor
from nodeagent.health.observation import Drift, Note, Observation, Unanswered
from nodeagent.host.kernel_follow import LogBatch
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.spec.health import HealthDamping, HealthExpect, HealthLimits
from nodeagent.state.gids import ROCE_V2, Gid
from nodeagent.state.gpu import Fabric, Gpu, GpuSample, Notice
from nodeagent.state.health import Verdict
from nodeagent.state.modules import KernelModule, Liveness
from nodeagent.state.network import Netdev, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.topology import PcieLink
from nodeagent.state.vitals import ClockFacts, DiskFacts

START = 1_000_000.0
WINDOW = 600.0
ADDRESSES = ("0000:1b:00.0", "0000:3b:00.0", "0000:5b:00.0")
NICS = ("0000:2a:00.0", "0000:4a:00.0")
SPEC = HealthSpec(
    expect=HealthExpect(persistence_mode=True),
    limits=HealthLimits(window_seconds=WINDOW, ecc_corrected_per_hour=100),
    damping=HealthDamping(hold_seconds=0.0, quiet_seconds=1.0),
)
COUNTERS = dict.fromkeys((3, 94, 52, 59, 269, 270, 271), 0.0)
WELL_FIELDS = {**COUNTERS, 4: 0, 6: 0, 29: 0, 30: 0, 31: 0, 143: 0, 144: 0, 145: 0, 180: 0, 230: 0}
Change = Callable[[Observation], Observation]
W, F, U = Verdict.WARNING, Verdict.FAILED, Verdict.UNKNOWN


def sample(uuid: str) -> GpuSample:
    return GpuSample(
        uuid,
        fields=WELL_FIELDS,
        temperature_celsius=50,
        temperature_margin_celsius=40,
        clocks_event_reasons=0x4,
        nvlinks=(True, True, True, True),
        fabric=Fabric(3, summary=1),
        sram_threshold_exceeded=False,
        pcie_width=16,
        pcie_width_max=16,
        pcie_generation=5,
        pcie_generation_max=5,
        utilization_gpu_percent=90,
        persistence=True,
    )


def port(index: int) -> RdmaDevice:
    found = RdmaPort(1, "ACTIVE", "Ethernet", f"ens{index}", "400 Gb/sec (4X NDR)", counters=(("symbol_error", 0),))
    return RdmaDevice(f"mlx5_{index}", f"{index}", NICS[index], ports=(found,))


def well() -> Observation:
    """Three GPUs and two ports with nothing wrong."""
    gpus = {f"GPU-{number}": Gpu(f"GPU-{number}", number, number, at, "H", 0) for number, at in enumerate(ADDRESSES)}
    state = NodeState(
        gpus=gpus,
        modules={name: KernelModule(name, Liveness.LIVE) for name in ("nvidia", "mlx5_core")},
        rdma={found.name: found for found in (port(0), port(1))},
        netdevs={
            f"ens{n}": Netdev(f"ens{n}", 9000, up=True, carrier=True, uses=(f"address 10.{n}.0.1/24",)) for n in (0, 1)
        },
    )
    return Observation(
        START,
        state,
        {uuid: sample(uuid) for uuid in gpus},
        pcie={at: PcieLink(32.0, 16, 32.0, 16) for at in NICS},
        gpu_pci=ADDRESSES,
        clock=ClockFacts(True, 0.0, 0.0),
        disks={"/": DiskFacts("/", 10**12, 10**12)},
        plan_known=True,
        gids={f"mlx5_{n}/1": (Gid(3, IPv6Address(f"::ffff:10.{n}.0.1"), ROCE_V2, f"ens{n}"),) for n in (0, 1)},
    )


def on_gpu(**values: object) -> Change:
    return lambda seen: replace(
        seen,
        samples={**seen.samples, "GPU-1": replace(seen.samples["GPU-1"], **values)},
    )


def fields(**values: float) -> Change:
    """NVML fields of GPU 1, as f30=2."""
    return on_gpu(fields={**WELL_FIELDS, **{int(name[1:]): value for name, value in values.items()}})


def on_port(**values: object) -> Change:
    def change(seen: Observation) -> Observation:
        device = seen.node.rdma["mlx5_1"]
        bad = replace(device, ports=(replace(device.ports[0], **values),))
        return replace(seen, node=replace(seen.node, rdma={**seen.node.rdma, "mlx5_1": bad}))

    return change


def silent(reason: str, hangs: bool) -> Change:
    return lambda seen: replace(
        seen,
        samples={uuid: one for uuid, one in seen.samples.items() if uuid != "GPU-1"},
        unanswered={"GPU-1": Unanswered(reason, hangs)},
    )


def loaded(name: str) -> Change:
    return lambda seen: replace(
        seen, node=replace(seen.node, modules={**seen.node.modules, name: KernelModule(name, Liveness.LIVE)})
    )


def whole(**values: object) -> Change:
    return lambda seen: replace(seen, **values)


GPU, PORT, NODE = "GPU-1", "mlx5_1/1", "node"
HANG = "no answer within 10 s, fenced off since noon"
CASES: Mapping[str, tuple[Change, tuple[str, str, Verdict]]] = {
    "recovery reset": (fields(f230=1), (GPU, "recovery-action", F)),
    "recovery unknown to us": (fields(f230=77), (GPU, "recovery-action", U)),
    "two-bit errors": (fields(f4=1, f6=1), (GPU, "ecc", W)),
    "corrected errors by rate": (fields(f3=1000), (GPU, "ecc", W)),
    "memory on the chip": (on_gpu(sram_threshold_exceeded=True), (GPU, "sram", F)),
    "remap pending": (fields(f144=1), (GPU, "row-remap", W)),
    "remap failed": (fields(f145=1), (GPU, "row-remap", F)),
    "rows used up": (fields(f143=512), (GPU, "row-remap", W)),
    "pages pending": (fields(f31=1), (GPU, "retired-pages", W)),
    "pages nearly used up": (fields(f29=60), (GPU, "retired-pages", W)),
    "pages used up": (fields(f29=60, f30=3), (GPU, "retired-pages", F)),
    "warm": (on_gpu(temperature_margin_celsius=2), (GPU, "temperature", W)),
    "hot": (on_gpu(temperature_margin_celsius=0), (GPU, "temperature", F)),
    "heat for a while": (fields(f270=0.3 * WINDOW * 1e9), (GPU, "clocks", W)),
    "power brake": (fields(f271=0.9 * WINDOW * 1e9), (GPU, "clocks", F)),
    "a link is down": (on_gpu(nvlinks=(True, False, True, True)), (GPU, "nvlink", F)),
    "links replay": (fields(f52=100), (GPU, "nvlink-errors", W)),
    "links recover": (fields(f59=100), (GPU, "nvlink-errors", W)),
    "fabric unhealthy": (on_gpu(fabric=Fabric(3, summary=2)), (GPU, "fabric", F)),
    "fabric limited": (on_gpu(fabric=Fabric(3, summary=3)), (GPU, "fabric", W)),
    "fabric joining": (on_gpu(fabric=Fabric(2)), (GPU, "fabric", W)),
    "fabric failed": (on_gpu(fabric=Fabric(3, status=999, summary=1)), (GPU, "fabric", F)),
    "x8": (on_gpu(pcie_width=8), (GPU, "pcie-link", W)),
    "slow and busy": (on_gpu(pcie_generation=3), (GPU, "pcie-link", W)),
    "replays": (fields(f94=100_000), (GPU, "pcie-errors", W)),
    "fatal PCIe errors": (fields(f180=1), (GPU, "pcie-errors", F)),
    "persistence off": (on_gpu(persistence=False), (GPU, "persistence", W)),
    "persistence unknown": (on_gpu(persistence=None), (GPU, "persistence", U)),
    "unavailable": (on_gpu(notices=(Notice.UNAVAILABLE,)), (GPU, "gpu-notice", F)),
    "port down": (on_port(state="DOWN"), (PORT, "port-state", W)),
    "port slow": (on_port(rate="100 Gb/sec (4X EDR)"), (PORT, "port-rate", W)),
    "port errors": (on_port(counters=(("symbol_error", 100_000),)), (PORT, "port-errors", W)),
    "no gid": (lambda seen: replace(seen, gids={**seen.gids, PORT: ()}), (PORT, "gid", F)),
    "card x8": (
        lambda seen: replace(seen, pcie={**seen.pcie, NICS[1]: PcieLink(32.0, 8, 32.0, 16)}),
        (PORT, "pcie-link", W),
    ),
    "qos drift": (whole(drift=(Drift("qos", "ens1", "trust is pcp"),)), (PORT, "drift-qos", W)),
    "module missing": (whole(drift=(Drift("modules", "gdrdrv", "load gdrdrv"),)), (NODE, "drift-modules", W)),
    "mig drift": (whole(drift=(Drift("mig", "GPU-1", "create 1g"),)), (GPU, "drift-mig", W)),
    "peermem alone": (loaded("nvidia_peermem"), (NODE, "peermem", W)),
    "acs": (whole(notes=(Note("acs", "0000:00:01.0", "redirects", "clear it"),)), (NODE, "acs", W)),
    "numa": (whole(notes=(Note("numa", NICS[0], "unknown", "see the firmware"),)), (NODE, "numa", W)),
    "clock off": (whole(clock=ClockFacts(True, 3.0, 3.0)), (NODE, "clock", W)),
    "clock free": (whole(clock=ClockFacts(False, 0.0, 0.0)), (NODE, "clock", W)),
    "clock unknown": (whole(clock="not permitted"), (NODE, "clock", U)),
    "disk nearly full": (whole(disks={"/": DiskFacts("/", 10**12, 2 * 10**9)}), (NODE, "disk:/", W)),
    "disk full": (whole(disks={"/": DiskFacts("/", 10**12, 10**6)}), (NODE, "disk:/", F)),
    "disk read-only": (whole(disks={"/": DiskFacts("/", 10**12, 10**12, read_only=True)}), (NODE, "disk:/", F)),
    "log unreadable": (whole(log_trouble="not permitted"), (NODE, "kernel-log", U)),
}


def problems(monitor: Monitor, seen: Observation) -> set[tuple[str, str, Verdict]]:
    found = monitor.cycle(seen, LogBatch()).health.problems
    return {(one.subject.name or "node", one.check, one.verdict) for one in found}


@pytest.mark.parametrize("name", CASES)
def test_a_trouble_is_seen_in_one_cycle_on_one_device_and_goes_with_its_cause(name: str) -> None:
    change, wanted = CASES[name]
    monitor = Monitor(SPEC, Before())
    before = replace(well(), now=START)
    assert problems(monitor, before) == set()
    assert problems(monitor, replace(well(), now=START + WINDOW)) == set()
    assert problems(monitor, replace(change(well()), now=START + 2 * WINDOW)) == {wanted}
    monitor.cycle(replace(well(), now=START + 4 * WINDOW), LogBatch())  # a counter that rose leaves its window
    assert problems(monitor, replace(well(), now=START + 5.5 * WINDOW)) == set()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (silent(HANG, hangs=True), "gpu-answers"),
        (silent("the driver reports an internal error", hangs=False), "gpu-answers"),
        (silent("the gpu is lost: it fell off the bus", hangs=False), "gpu-on-bus"),
        (whole(gone_pci=(ADDRESSES[1],)), "gpu-on-bus"),
    ],
    ids=["hangs", "unreadable", "lost", "config space of ones"],
)
def test_a_gpu_that_does_not_answer_is_failed_and_what_was_known_of_it_unknown(change: Change, check: str) -> None:
    monitor = Monitor(SPEC, Before())
    assert problems(monitor, well()) == set()
    found = problems(monitor, replace(change(well()), now=START + 10))
    assert {one for one in found if one[2] is F and one[1] != "gpu-count"} == {(GPU, check, F)}
    assert {one[0] for one in found if one[2] is U} <= {GPU}
    assert problems(monitor, replace(well(), now=START + 20)) == set()


def test_a_gpu_that_telemetry_reads_and_the_last_pass_could_not_is_no_healthy_one() -> None:
    monitor = Monitor(SPEC, Before())
    assert problems(monitor, replace(well(), unanswered={GPU: Unanswered(HANG, hangs=True)})) == {
        (GPU, "gpu-answers", F)
    }


def test_nothing_looked_at_is_not_healthy() -> None:
    found = problems(Monitor(SPEC, Before()), replace(well(), samples={}, driver_trouble="no answer within 10 s"))
    assert (NODE, "driver", F) in found
    assert (NODE, "gpu-count", U) in found


def test_every_check_named_here_is_explained() -> None:
    assert {check.partition(":")[0] for _, (_, check, _) in CASES.values()} <= set(CHECKS)
