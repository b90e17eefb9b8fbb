"""The same simulated machine read by nvitop's exporter and by ours: family by family the same values."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.exporters import fetch, nvitop_exporter
from nodeagent.simulation.node import open_node
from nodeagent.spec.schema import Metrics
from nodeagent.state.gpu import Placement
from nodeagent.supervisor.choices import Choices
from sampling import observed

MIB = 1 << 20
# nvitop's family, ours, ours in nvitop's unit, and how far they may be apart: 0 for what does not move meanwhile.
FAMILIES = (
    ("gpu_memory_total_MiB", "DCGM_FI_DEV_FB_TOTAL", 1, 1),
    ("gpu_memory_used_MiB", "nodeagent_gpu_memory_used_bytes", 1 / MIB, 1),
    ("gpu_memory_used_MiB", "DCGM_FI_DEV_FB_USED", 1, 1),
    ("gpu_memory_free_MiB", "DCGM_FI_DEV_FB_FREE", 1, 1),
    ("gpu_utilization_Percentage", "DCGM_FI_DEV_GPU_UTIL", 1, 8),
    ("gpu_utilization_Percentage", "nodeagent_gpu_utilization_ratio", 100, 8),
    ("gpu_memory_utilization_Percentage", "DCGM_FI_DEV_MEM_COPY_UTIL", 1, 8),
    ("gpu_encoder_utilization_Percentage", "DCGM_FI_DEV_ENC_UTIL", 1, 0),
    ("gpu_decoder_utilization_Percentage", "DCGM_FI_DEV_DEC_UTIL", 1, 0),
    ("gpu_clock_sm_MHz", "DCGM_FI_DEV_SM_CLOCK", 1, 60),
    ("gpu_clock_sm_MHz", "DCGM_FI_DEV_SM_CLOCK_HERTZ", 1e-6, 60),
    ("gpu_clock_memory_MHz", "DCGM_FI_DEV_MEM_CLOCK", 1, 0),
    ("gpu_clock_video_MHz", "DCGM_FI_DEV_VIDEO_CLOCK", 1, 60),
    ("gpu_power_usage_W", "DCGM_FI_DEV_POWER_USAGE", 1, 25),
    ("gpu_power_limit_W", "DCGM_FI_DEV_POWER_MGMT_LIMIT", 1, 0),
    ("gpu_temperature_C", "DCGM_FI_DEV_GPU_TEMP", 1, 3),
    ("gpu_temperature_C", "nodeagent_gpu_temperature_celsius", 1, 3),
)
LIST = "\n".join(f"{ours}, gauge, x" for _, ours, _, _ in FAMILIES if ours.startswith("DCGM"))
DIVIDED = 0
LOOKS = 15


@pytest.fixture(scope="module")
def readings(tmp_path_factory) -> tuple[dict, dict]:
    """Values by (family, UUID of the GPU or MIG device), of nvitop's exporter and of ours."""
    place = tmp_path_factory.mktemp("a")
    node = open_node("dgx-a100", str(place / "n"))
    host = node.host()
    for module in ("nvidia", "nvidia_uvm"):
        host.kmod.load(module)
    uuids = [gpu.uuid for gpu in node.machine.gpus]
    host.nvml.set_mig_mode(uuids[DIVIDED], enabled=True)
    host.nvml.create_gpu_instance(uuids[DIVIDED], "3g.20gb", Placement(4, 4))
    host.nvml.release()
    for index, uuid in enumerate(uuids[1:], 1):
        node.start_job(index, "train.py", index << 30)
        node.machine.set_load(uuid, 10 * index)
    with nvitop_exporter(place / "n") as (address, _):
        for _ in range(LOOKS):
            time.sleep(2.0)  # it fills its gauges once a second, or late; and at first a GPU under load becomes hot
            theirs = by_uuid(fetch(address).decode())
            ours = by_uuid(exposition(host, place))
            if not any(differing((theirs, ours), family) for family in FAMILIES):
                break
    host.nvml.close()
    node.machine.close()
    return theirs, ours


def exposition(host, place: Path) -> str:
    (place / "n" / "list.csv").write_text(LIST)
    sampler = observed(host, Choices(Metrics(counters_file="/list.csv"), host.files))
    sampler.take()
    return sampler.snapshot.body.decode()


def by_uuid(text: str) -> dict[tuple[str, str], float]:
    """Of both; our lines of an instance count under the UUID of its MIG device."""
    series = [one for family in text_string_to_metric_families(text) for one in family.samples]
    devices = {
        (one.labels["UUID"], one.labels["GPU_I_ID"]): one.labels["mig_uuid"]
        for one in series
        if one.name == "nodeagent_gpu_mig_device_info"
    }
    found = {}
    for one in series:
        gpu = one.labels.get("uuid") or one.labels.get("UUID", "")
        found[one.name, devices.get((gpu, one.labels.get("GPU_I_ID", "")), gpu)] = one.value
    return found


@pytest.mark.parametrize(("nvitop", "nodeagent", "scale", "apart"), FAMILIES, ids=str)
def test_both_read_the_same(readings, nvitop, nodeagent, scale, apart):
    theirs, ours = (of_family(read, name) for read, name in zip(readings, (nvitop, nodeagent), strict=True))
    assert len(theirs.keys() & ours.keys()) >= 7, "GPUs without MIG, at least"
    assert differing(readings, (nvitop, nodeagent, scale, apart)) == {}


def differing(readings: tuple[dict, dict], family: tuple[str, str, float, float]) -> dict[str, tuple]:
    """Both values by UUID where they are further apart than the line of FAMILIES allows."""
    nvitop, nodeagent, scale, apart = family
    left, right = (of_family(read, name) for read, name in zip(readings, (nvitop, nodeagent), strict=True))
    pairs = {uuid: (left[uuid], right[uuid] * scale) for uuid in left.keys() & right.keys()}
    return {uuid: pair for uuid, pair in pairs.items() if abs(pair[0] - pair[1]) > apart}


def of_family(read: dict, name: str) -> dict[str, float]:
    """By UUID; nvitop writes NaN for what there is not."""
    return {uuid: value for (family, uuid), value in read.items() if family == name and not math.isnan(value)}


def test_an_instance_agrees_too(readings):
    theirs, ours = readings
    (mig,) = {uuid for name, uuid in ours if uuid.startswith("MIG-") and name == "DCGM_FI_DEV_FB_USED"}
    assert abs(theirs["gpu_memory_total_MiB", mig] - ours["DCGM_FI_DEV_FB_TOTAL", mig]) <= 1
    assert abs(theirs["gpu_memory_used_MiB", mig] - ours["DCGM_FI_DEV_FB_USED", mig]) <= 1
