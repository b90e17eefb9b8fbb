"""A view with everything in it: two GPUs, one of them divided, NICs, jobs, processes, history."""

from __future__ import annotations

from types import MappingProxyType

from nodeagent.host.ports import GpuFault
from nodeagent.metrics.facts import AgentFacts
from nodeagent.metrics.instruments import Instruments
from nodeagent.metrics.options import Options
from nodeagent.metrics.tally import NO_XIDS, GpuTally
from nodeagent.metrics.view import View
from nodeagent.state.gpu import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    GpuSample,
    InstanceSample,
    MigMode,
    MigProfile,
    NvidiaDriver,
    Placement,
)
from nodeagent.state.modules import KernelModule, Liveness, ModuleFile
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.pods import PodFacts, PodUser
from nodeagent.state.processes import Process
from nodeagent.state.qos import DSCP_SELECTOR, AppEntry, DcbState, Ets, Pfc

MIB = 1 << 20
GIB = 1 << 30
ROOT, SWITCH = ("pci0000:00", "0000:00:01.0"), ("0000:01:00.0",)
FIELDS = {
    3: 1,
    4: 2,
    5: 3,
    6: 4,
    29: 0,
    30: 1,
    31: 0,
    38: 5,
    45: 6,
    52: 7,
    59: 8,
    **{number: number * 10**9 for number in range(74, 82)},
    82: 55,
    94: 9,
    138: 1000,
    139: 3000,
    142: 1,
    143: 2,
    144: 0,
    145: 0,
    161: 1,
    162: 2,
    163: 3,
    169: 1,
    173: 2,
    180: 0,
    186: 250500,
    187: 200000,
    188: 700000,
    189: 700000,
    193: 92,
    197: 10,
    198: 20,
    230: 0,
    269: 500_000_000,
    270: 0,
    271: 0,
}
GPM = {
    number: float(number) for number in (*range(1, 14), 20, 21, *range(30, 38), *range(40, 48), 50, 51, *range(60, 98))
}
GPM |= dict.fromkeys((*range(100, 104), *range(160, 164)), 1.5)
GPM |= {number: number * 1e12 for number in range(248, 261)}


def gpu(index: int, **more) -> Gpu:
    return Gpu(
        **{
            "uuid": f"GPU-{index}",
            "index": index,
            "minor": index + 3,
            "pci_address": f"0000:{index + 2:02x}:00.0",
            "product": "NVIDIA H100 80GB HBM3",
            "memory_total_bytes": 80 * GIB,
            "vbios": "96.00.74",
            "inforom": "G520.0200.00.04",
            "inforom_oem": "2.1",
            "inforom_ecc": "7.16",
            "nvml_version": "12.550.90.07",
            "serial": f"156{index + 1:010d}",
            "brand": 14,
        }
        | more
    )


def instance(profile: str, gi_id: int, pids: tuple[int, ...] = ()) -> GpuInstance:
    compute = ComputeInstance(profile, 0, f"MIG-{gi_id}", pids)
    return GpuInstance(profile, 9, Placement(gi_id, 1), gi_id, (compute,))


WHOLE = gpu(0, pids=(11,))
DIVIDED = gpu(
    1,
    mig_mode=MigMode.ENABLED,
    pending_mig_mode=MigMode.ENABLED,
    profiles=(MigProfile("1g.10gb", 19, 1, 7, 9728, (Placement(0, 1),)),),
    instances=(instance("1g.10gb", 1, (12,)), instance("3g.40gb", 2)),
)
SAMPLE = GpuSample(
    uuid="GPU-0",
    memory_used_bytes=10 * GIB,
    memory_free_bytes=69 * GIB,
    memory_reserved_bytes=GIB,
    memory_total_bytes=80 * GIB,
    utilization_gpu_percent=97,
    utilization_memory_percent=40,
    temperature_celsius=61,
    power_milliwatts=651250,
    energy_millijoules=2**53 + 1,
    sm_clock_mhz=1980,
    memory_clock_mhz=2619,
    video_clock_mhz=1545,
    encoder_percent=0,
    decoder_percent=1,
    performance_state=0,
    fan_percent=33,
    power_limit_milliwatts=700000,
    enforced_power_limit_milliwatts=690000,
    clocks_event_reasons=4,
    pcie_generation=4,
    pcie_generation_max=5,
    pcie_width=8,
    pcie_width_max=16,
    fields=FIELDS,
    gpm=GPM,
    read_seconds=0.002,
)
INSTANCES = (
    InstanceSample(1, 2 * GIB, 7 * GIB, 100 * MIB, 9728 * MIB, {1: 50.0, 5: 25.0}),
    InstanceSample(2, GIB, 38 * GIB, 200 * MIB, 40448 * MIB),
)
DIVIDED_SAMPLE = GpuSample(
    uuid="GPU-1",
    memory_used_bytes=3 * GIB,
    memory_free_bytes=76 * GIB,
    temperature_celsius=44,
    power_milliwatts=100000,
    fields={82: 40},
    gpm={1: 20.0},
    instances=INSTANCES,
)
H100, CONNECTX = ("10de", "2330", "030200"), ("15b3", "1021", "020000")  # vendor, device, class
COUNTERS = (("np_cnp_sent", 3), ("out_of_sequence", 7), ("port_rcv_data", 10), ("port_xmit_data", 100))
DCB = DcbState(
    dcbx=5,
    pfc=Pfc((3,), requests=(0, 0, 0, 4, 0, 0, 0, 0), indications=(0, 0, 0, 5, 0, 0, 0, 0)),
    ets=Ets((0, 0, 0, 60, 0, 0, 0, 40), (0, 0, 0, 2, 0, 0, 0, 2), (0, 1, 2, 3, 4, 5, 6, 7)),
    app=(AppEntry(DSCP_SELECTOR, 26, 3), AppEntry(DSCP_SELECTOR, 48, 6)),
)
NODE = NodeState(
    modules={"nvidia": KernelModule("nvidia", Liveness.LIVE, 2, (), "550.90.07", "ABC")},
    module_files={"nvidia": ModuleFile("nvidia", "n.ko"), "gdrdrv": ModuleFile("gdrdrv", "g.ko")},
    driver=NvidiaDriver("550.90.07", True),
    pci={
        address: PciFunction(address, *ids, numa_node=0, path=(*ROOT, *SWITCH, bridge, address))
        for address, bridge, ids in (
            ("0000:02:00.0", "0000:01:01.0", H100),
            ("0000:03:00.0", "0000:01:02.0", H100),
            ("0000:5e:00.0", "0000:01:03.0", CONNECTX),
            ("0000:5f:00.0", "0000:01:04.0", CONNECTX),
        )
    }
    | {"0000:e1:00.0": PciFunction("0000:e1:00.0", *CONNECTX, path=("pci0000:e0", "0000:e1:00.0"))},
    gpus={"GPU-0": WHOLE, "GPU-1": DIVIDED},
    netdevs={
        "ens1": Netdev("ens1", 9000, True, True, pci_address="0000:5e:00.0", dcb=DCB),
        "ens2": Netdev("ens2", 4200, False, pci_address="0000:5f:00.0"),
        "veth9": Netdev("veth9", 1500, True),
    },
    rdma={
        "mlx5_0": RdmaDevice(
            "mlx5_0",
            "0c42:a103:0001:0002",
            "0000:5e:00.0",
            "28.39.2048",
            (RdmaPort(1, "ACTIVE", "Ethernet", "ens1", "400 Gb/sec (4X NDR)", 4096, COUNTERS, roce_tos=106),),
            "MT_0000000838",
            "MT4129",
        ),
        "mlx5_1": RdmaDevice("mlx5_1", "g", "0000:5f:00.0", ports=(RdmaPort(1, "DOWN", "Ethernet", "ens2"),)),
        "mlx5_2": RdmaDevice("mlx5_2", "h", "0000:e1:00.0", ports=(RdmaPort(1, "ACTIVE", "Ethernet"),)),
    },
    processes={
        11: Process(11, "python", "python train.py", container="c" * 64, pod_uid="pod-1"),
        12: Process(12, "triton", unit="triton.service"),
    },
)


def instruments() -> tuple:
    """After two passes and a few calls; what differs from machine to machine is left out."""
    made = Instruments("0.1.0")
    calls = {"nvmlDeviceGetClockInfo": (30, 0.0015), "nvmlDeviceGetFieldValues": (10, 0.25)}
    made.add_calls([GpuSample("GPU-0", calls=MappingProxyType(calls))])
    for seconds in (0.25, 7.0):
        made.passes.observe(seconds)
    made.rounds.labels("gpus").observe(0.03)
    return tuple(
        (family, samples if family.name.startswith("nodeagent_") else tuple((found, 1) for found, _ in samples))
        for family, samples in made.families()
        if family.name != "python_info"
    )


FACTS = AgentFacts(
    "node1",
    "0.1.0",
    "dgx-h100",
    True,
    passes=4,
    pass_duration_seconds=0.25,
    steps_taken=2,
    unit_failures=MappingProxyType({"mig/GPU-1": 2}),
    gpu_faults=(GpuFault("GPU-9", "lost"),),
    units_waiting=("links/ens2",),
    start_seconds=1790000000.0,
    telemetry_seconds=1790000100.0,
    cycle_seconds=MappingProxyType({"gpus": 0.03}),
    cycle_errors=MappingProxyType({"gpus": 0}),
    nvml_hangs=1,
    instruments=instruments(),
)
TALLIES = MappingProxyType(
    {"GPU-0": GpuTally({**NO_XIDS, (79, -1): 1, (31, -1): 2}, 79, 1790000050.0, nvlink_megabytes_per_second=12.5)}
)
STATISTICS = MappingProxyType(
    {
        "ens1": {
            "rx_prio3_pause": 5,
            "rx_prio3_pause_duration": 1_500_000,
            "tx_prio3_bytes": 77,
            "rx_discards_phy": 1,
            "outbound_pci_stalled_rd": 25,
        }
    }
)


PODS = PodFacts(
    {
        "GPU-0": (PodUser("default", "train-7", "pytorch"),),
        "MIG-2": (PodUser("team", "share-1", "x"), PodUser("team", "share-2", "x")),
    },
    1790000090.0,
    9,
)


def full_view(options: Options | None = None) -> View:
    return View(
        NODE,
        (SAMPLE, DIVIDED_SAMPLE),
        FACTS,
        1790000100.5,
        options=options or Options(),
        tallies=TALLIES,
        jobs={"0": ("4711",), "1.1": ("4712", "4713")},
        statistics=STATISTICS,
        gid_indexes={("mlx5_0", 1): 3},
        pods=PODS,
    )
