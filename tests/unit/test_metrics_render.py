"""The text that a scrape gets, read back by prometheus_client's own parser."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.host.ports import GpuFault
from nodeagent.metrics.exposition import labels, number
from nodeagent.metrics.facts import AgentFacts
from nodeagent.metrics.instruments import Instruments
from nodeagent.metrics.render import snapshot
from nodeagent.metrics.view import View
from nodeagent.state.gpu import Gpu, GpuInstance, GpuSample, MigMode, MigProfile, NvidiaDriver, Placement
from nodeagent.state.modules import KernelModule, Liveness, ModuleFile
from nodeagent.state.network import Netdev, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState, Unknown

MIB = 1024 * 1024
PROFILE = MigProfile("3g.20gb", 9, 3, 2, 19968, (Placement(0, 4), Placement(4, 4)))
GPU0 = Gpu(
    uuid="GPU-0",
    index=0,
    minor=3,
    pci_address="0000:3b:00.0",
    product="NVIDIA A100-SXM4-40GB",
    memory_total_bytes=40960 * MIB,
    mig_mode=MigMode.ENABLED,
    pending_mig_mode=MigMode.DISABLED,
    profiles=(PROFILE, replace(PROFILE, name="1g.5gb", profile_id=19)),
    instances=(GpuInstance("3g.20gb", 9, Placement(0, 4), 1),),
)
GPU1 = replace(GPU0, uuid="GPU-1", index=1, minor=4, mig_mode=MigMode.UNSUPPORTED, pending_mig_mode=MigMode.UNSUPPORTED)
SAMPLE0 = GpuSample(
    uuid="GPU-0",
    memory_used_bytes=10 * MIB + 5,
    memory_free_bytes=30 * MIB,
    memory_reserved_bytes=MIB,
    temperature_celsius=41,
    power_milliwatts=61250,
    energy_millijoules=2**53 + 1,
    sm_clock_mhz=1410,
    memory_clock_mhz=1215,
)
NODE = NodeState(
    modules={
        "nvidia": KernelModule("nvidia", Liveness.LIVE, 2, (), "550.90.07", "ABC"),
        "x": KernelModule("x", Liveness.LIVE),
    },
    module_files={"nvidia": ModuleFile("nvidia", "n.ko"), "gdrdrv": ModuleFile("gdrdrv", "g.ko")},
    driver=NvidiaDriver("550.90.07", True),
    gpus={"GPU-0": GPU0, "GPU-1": GPU1},
    netdevs={
        "ens1": Netdev("ens1", 9000, True, True, pci_address="0000:5e:00.0"),
        "br0": Netdev("br0", 4200, False),
        "veth9": Netdev("veth9", 1500, True),
    },
    rdma={
        "mlx5_0": RdmaDevice(
            "mlx5_0",
            "g",
            "0000:5e:00.0",
            "",
            (RdmaPort(1, "ACTIVE", "Ethernet", "ens1", "", 4096, (("port_rcv_data", 10), ("out_of_sequence", 7))),),
        ),
        "rxe0": RdmaDevice("rxe0", "h", ports=(RdmaPort(1, "DOWN", "Ethernet", "br0", counters=(("sent_pkts", 3),)),)),
    },
    unknown=(Unknown("gpu GPU-1", "hangs"),),
)
FACTS = AgentFacts("node1", "0.1.0", "dgx-a100", True, 0, 0, 4, 0.25, MappingProxyType({"mig/GPU-1": 2}))
FACTS = replace(FACTS, instruments=Instruments("0.1.0").families())


def render(node, samples, facts, now, **more) -> bytes:
    return snapshot(View(node, samples, facts, now, **more)).body


def read(body: bytes) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(body: bytes, name: str, **wanted: str) -> float:
    matching = [found for pairs, found in read(body).get(name, {}).items() if wanted.items() <= dict(pairs).items()]
    assert len(matching) == 1, f"{name}{wanted}: {matching}"
    return matching[0]


@pytest.fixture(scope="module")
def body() -> bytes:
    return render(NODE, (SAMPLE0,), FACTS, 1790000000.5)


def test_dcgm_lines_have_dcgm_units_and_labels(body):
    assert (
        'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-0",pci_bus_id="00000000:3B:00.0",device="nvidia3",'
        'modelName="NVIDIA A100-SXM4-40GB",Hostname="node1",DCGM_FI_DRIVER_VERSION="550.90.07"} 61.25\n'
    ) in body.decode()
    assert value(body, "DCGM_FI_DEV_FB_USED", UUID="GPU-0") == 10
    assert value(body, "DCGM_FI_DEV_GPU_TEMP", UUID="GPU-0") == 41
    assert "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n" in body.decode()
    assert f" {2**53 + 1}\n" in body.decode(), "a large counter keeps its last digit"


def test_what_is_not_supported_is_absent_and_not_zero(body):
    assert "DCGM_FI_DEV_GPU_UTIL" not in body.decode()


def test_every_family_has_one_help_and_one_type_and_no_duplicate_series(body):
    lines = body.decode().splitlines()
    assert body.endswith(b"\n")
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(series) == len(set(series))
    assert len(types) == len(set(types)) == sum(line.startswith("# HELP") for line in lines)


def test_a_gpu_that_does_not_answer_keeps_only_its_zero():
    body = render(
        NODE, (SAMPLE0,), replace(FACTS, gpu_faults=(GpuFault("GPU-1", "hangs"), GpuFault("GPU-9", "lost"))), 1.0
    )
    assert value(body, "nodeagent_gpu_up", UUID="GPU-0") == 1
    assert value(body, "nodeagent_gpu_up", UUID="GPU-1") == 0
    assert value(body, "nodeagent_gpu_up", UUID="GPU-9") == 0
    assert not any(dict(pairs).get("UUID") == "GPU-1" for pairs in read(body)["DCGM_FI_DEV_GPU_TEMP"])


def test_a_gpu_without_a_sample_while_others_have_one_is_down(body):
    assert value(body, "nodeagent_gpu_up", UUID="GPU-1") == 0


def test_mig(body):
    assert value(body, "nodeagent_gpu_mig_mode", UUID="GPU-0") == 1
    assert value(body, "nodeagent_gpu_mig_mode_pending", UUID="GPU-0") == 0
    assert value(body, "nodeagent_gpu_mig_instances", profile="3g.20gb") == 1
    assert value(body, "nodeagent_gpu_mig_instances", profile="1g.5gb") == 0
    assert len(read(body)["nodeagent_gpu_mig_mode"]) == 1


def test_modules_are_those_the_node_file_asks_about(body):
    assert value(body, "nodeagent_module_loaded", module="nvidia", version="550.90.07", srcversion="ABC") == 1
    assert value(body, "nodeagent_module_loaded", module="gdrdrv") == 0
    assert len(read(body)["nodeagent_module_loaded"]) == 2


def test_network(body):
    assert value(body, "nodeagent_netdev_mtu_bytes", netdev="ens1") == 9000
    assert value(body, "nodeagent_netdev_carrier", netdev="ens1", pci_address="0000:5e:00.0") == 1
    assert value(body, "nodeagent_netdev_up", netdev="br0") == 0, "below an RDMA port, though not on PCI"
    assert len(read(body)["nodeagent_netdev_up"]) == 2, "interfaces of containers stay out"
    assert value(body, "nodeagent_rdma_port_up", device="mlx5_0", port="1", netdev="ens1") == 1
    assert value(body, "nodeagent_rdma_port_up", device="rxe0") == 0
    assert value(body, "nodeagent_rdma_port_received_bytes_total", device="mlx5_0") == 40
    assert value(body, "nodeagent_rdma_port_out_of_sequence_total", device="mlx5_0") == 7
    assert value(body, "nodeagent_rdma_port_sent_pkts_total", device="rxe0") == 3


def test_the_agent_about_itself(body):
    assert value(body, "nodeagent_converged") == 1
    assert value(body, "nodeagent_passes_total") == 4
    assert value(body, "nodeagent_pass_duration_seconds") == 0.25
    assert value(body, "nodeagent_unit_failures_total", unit="mig/GPU-1") == 2
    assert value(body, "nodeagent_snapshot_timestamp_seconds") == 1790000000.5
    assert value(body, "nodeagent_build_info", version="0.1.0") == 1
    assert value(body, "nodeagent_simulated", profile="dgx-a100") == 1
    assert value(body, "nodeagent_unknown_facts") == 1


def test_an_empty_real_node_renders():
    body = render(NodeState(), (), AgentFacts("h", "1"), 0.0)
    assert value(body, "nodeagent_simulated") == 0
    assert "nodeagent_converged" not in read(body), "not known yet"
    assert "gpu_up" not in body.decode()


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "ü{},=", '\\"\n'])
def test_label_values_survive_the_parser(text):
    body = f"m{labels(text=text)} 1\n"
    (family,) = text_string_to_metric_families(body)
    assert family.samples[0].labels == {"text": text}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (True, "1"),
        (False, "0"),
        (2**63, str(2**63)),
        (0.1, "0.1"),
        (1e-9, "1e-09"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_keep_every_digit(given, text):
    assert number(given) == text
