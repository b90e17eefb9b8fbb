"""NVML calls beyond identity and MIG under nvidia-ml-py: GPM, links, clocks, errors, topology, samples, events."""

from __future__ import annotations

import ctypes
import math
import os

import pytest

from nodeagent.errors import GoneError
from nodeagent.simulation.machine import BoardAt, Machine
from nodeagent.simulation.machine_library import library_path
from nvml_client import Client

SLOTS = (
    BoardAt("A100-SXM4-80GB", "0000:07:00.0", 0, "calls", 0, "pci0000:00", "0000:01:00.0"),
    BoardAt("A100-SXM4-80GB", "0000:0f:00.0", 1, "calls", 0, "pci0000:00", "0000:01:00.0"),
    BoardAt("H100-80GB-HBM3", "0000:47:00.0", 2, "calls", 1, "pci0000:40", "0000:41:00.0"),
    BoardAt("B200-180GB", "0000:87:00.0", 3, "calls", 1, "pci0000:80", "0000:81:00.0"),
    BoardAt("GH200-96GB", "0000:c7:00.0", 4, "calls", 0),
)
A100, H100, B200, GH200 = 0, 2, 3, 4
GIB = 1 << 30
BAD_ARGUMENT, UNSUPPORTED, MISSING = "error 2", "error 3", "error 6"
GPM = """
import time
def pair(take):
    made = [nvmlGpmSampleAlloc(), nvmlGpmSampleAlloc()]
    take(made[0]); time.sleep(0.12); take(made[1])
    return made

def metrics(made, *ids):
    asked = c_nvmlGpmMetricsGet_t(version=1, numMetrics=len(ids), sample1=made[0], sample2=made[1])
    for position, number in enumerate(ids):
        asked.metrics[position].metricId = number
    nvmlGpmMetricsGet(asked)
    return [asked.metrics[n].value if not asked.metrics[n].nvmlReturn else "error %d" % asked.metrics[n].nvmlReturn
            for n in range(len(ids))]

def scoped(handle, number, scope):
    value = nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
    return value.value.ullVal if value.nvmlReturn == 0 else "error %d" % value.nvmlReturn
"""


@pytest.fixture
def machine(tmp_path):
    with Machine.create(str(tmp_path / "machine"), SLOTS, str(tmp_path), "580.95.05") as made:
        yield made


@pytest.fixture
def uuids(machine):
    return [gpu.uuid for gpu in machine.gpus]


@pytest.fixture
def client(machine):
    with Client({**os.environ, **machine.environment}) as opened:
        opened.start()
        opened(f"exec({GPM!r}, globals())")
        yield opened


def test_performance_metrics_follow_the_load(client, machine, uuids):
    assert client("nvmlGpmQueryDeviceSupport(g0).isSupportedDevice") == 0
    assert client("nvmlGpmQueryDeviceSupport(g2).isSupportedDevice") == 1
    assert client("nvmlGpmSampleGet(g0, nvmlGpmSampleAlloc())") == UNSUPPORTED
    client("made = pair(lambda sample: nvmlGpmSampleGet(g2, sample))")
    assert client("metrics(made, 1, 2, 10, 20, 60)") == [0.0] * 5
    machine.set_load(uuids[H100], 80)
    client("made = pair(lambda sample: nvmlGpmSampleGet(g2, sample))")
    busy, sm, tensor, dram, pcie, link, links = client("metrics(made, 1, 2, 5, 10, 21, 62, 60)")
    assert 74 <= busy <= 86
    assert 0 < tensor < sm < busy
    assert 0 < dram < busy
    assert (pcie, links) == (pytest.approx(busy * 60), pytest.approx(18 * link))
    assert client("metrics(made, 98, 160, 200)") == [UNSUPPORTED] * 3
    elapsed, active, tensor, half, sent, fp32 = client("metrics(made, 248, 249, 250, 252, 255, 259)")
    assert elapsed > active > tensor > half > 0
    assert (half, fp32) == (pytest.approx(tensor * 0.9), pytest.approx(tensor * 0.5))
    client("later = pair(lambda sample: nvmlGpmSampleGet(g2, sample))")
    assert all(client(f"metrics(later, {number})[0] > metrics(made, {number})[0]") for number in (248, 249, 255, 260))
    assert sent > 0
    assert client("metrics([made[1], made[0]], 1)") == BAD_ARGUMENT
    assert client("[nvmlGpmSampleFree(sample) for sample in made]") is not None


def test_performance_metrics_of_one_instance(client, machine, uuids):
    client("nvmlDeviceSetMigMode(g2, 1)")
    client("busy, idle = [nvmlDeviceCreateGpuInstanceWithPlacement(g2, 9, at(n, 4)) for n in (0, 4)]")
    client("ci = nvmlGpuInstanceCreateComputeInstance(busy, 2)")
    (row, orphan) = machine.mig_layout(uuids[H100]).rows
    machine.start_process(uuids[H100], 5000001, "train", GIB, mig_uuid=row.uuid)
    machine.set_load(uuids[H100], 60)
    client(f"first = pair(lambda sample: nvmlGpmMigSampleGet(g2, {row.gi_id}, sample))")
    busy, traffic = client("metrics(first, 1, 20)")
    assert 54 <= busy <= 66
    assert traffic == UNSUPPORTED  # links are those of the whole GPU
    assert client("metrics(first, 248, 249)") == [UNSUPPORTED] * 2
    client("second = pair(lambda sample: nvmlGpmSampleGet(nvmlComputeInstanceGetInfo(ci).device, sample))")
    assert 54 <= client("metrics(second, 1)")[0] <= 66
    client(f"none = pair(lambda sample: nvmlGpmMigSampleGet(g2, {orphan.gi_id}, sample))")
    assert math.isnan(client("metrics(none, 1)")[0])  # without a compute instance there is nothing to measure
    client("other = nvmlGpuInstanceCreateComputeInstance(idle, 2)")
    client(f"none = pair(lambda sample: nvmlGpmMigSampleGet(g2, {orphan.gi_id}, sample))")
    assert client("metrics(none, 1)") == [0.0]  # the work is the other's
    assert client("nvmlGpmMigSampleGet(g2, 14, nvmlGpmSampleAlloc())") == BAD_ARGUMENT
    assert client("nvmlGpmMigSampleGet(g3, 0, nvmlGpmSampleAlloc())") == UNSUPPORTED


def test_nvlinks_go_down_with_mig_where_a_reset_is_needed(client, machine, uuids):
    assert [client(f"nvmlDeviceGetNvLinkState(g{n}, 0)") for n in (A100, H100, B200)] == [1, 1, 1]
    assert [client(f"nvmlDeviceGetNvLinkVersion(g{n}, 0)") for n in (A100, H100, B200)] == [4, 6, 7]
    assert [client(f"scoped(g{n}, 164, 0)") for n in (A100, H100, B200)] == [25000, 26562, 53125]
    assert client("nvmlDeviceGetNvLinkRemoteDeviceType(g0, 0)") == 2
    assert client("nvmlDeviceGetNvLinkCapability(g0, 0, 0)") == 1
    assert client("nvmlDeviceGetNvLinkRemotePciInfo(g0, 3).busId") == "00000000:F3:00.0"
    assert client("nvmlDeviceGetNvLinkState(g0, 12)") == BAD_ARGUMENT
    machine.set_counter(uuids[A100], "nvlinks_down", 0b100)
    assert [client(f"nvmlDeviceGetNvLinkState(g0, {link})") for link in range(4)] == [1, 1, 0, 1]
    for handle, state in (("g0", 0), ("g2", 1)):
        client(f"nvmlDeviceSetMigMode({handle}, 1)")
        assert client(f"nvmlDeviceGetNvLinkState({handle}, 0)") == state


def test_nvlink_counters(client, machine, uuids):
    machine.set_link_errors(uuids[A100], 7, 0, 5)
    machine.set_link_errors(uuids[H100], 2, 1, 3)
    assert client("nvmlDeviceGetNvLinkErrorCounter(g0, 7, 0)") == 5
    assert client("[field(g0, n) for n in (52, 46, 109)]") == [5, 0, 5]  # total, lane 0, lane 7
    assert client("[scoped(g2, 162, s) for s in (2, 0, 0xFFFFFFFF)]") == [3, 0, 3]
    assert client("scoped(g0, 161, 0)") == UNSUPPORTED  # Hopper's own
    assert client("scoped(g3, 161, 0)") == UNSUPPORTED  # void since Blackwell
    assert client("scoped(g3, 215, 0)") == 0
    assert client("nvmlDeviceResetNvLinkErrorCounters(g0, 7)") is None
    assert client("nvmlDeviceGetNvLinkErrorCounter(g0, 7, 0)") == 0
    machine.set_load(uuids[H100], 50)
    sent, of_one = client("[(time.sleep(0.1), scoped(g2, 138, s))[1] for s in (0xFFFFFFFF, 0)]")
    assert sent > of_one > 0
    assert client("scoped(g2, 140, 0) > scoped(g2, 138, 0)") is True
    assert client("field(g2, 197) > 0") is True


def test_fabric_state_is_the_controllers(client, machine, uuids):
    client("info = c_nvmlGpuFabricInfoV_t()")
    assert client("nvmlDeviceGetGpuFabricInfoV(g2, byref(info))") == 0
    assert client("[info.state, info.status, info.healthMask]") == [3, 0, 0]
    machine.set_counter(uuids[H100], "fabric_state", 2)
    client("nvmlDeviceGetGpuFabricInfoV(g2, byref(info))")
    assert client("info.state") == 2
    assert client("nvmlDeviceGetGpuFabricInfoV(g0, byref(info))") == UNSUPPORTED


def test_errors_count_by_place_and_age(client, machine, uuids):
    machine.add_ecc_errors(uuids[A100], 3)
    machine.add_ecc_errors(uuids[A100], 2, sram=True)
    machine.add_ecc_errors(uuids[A100], 7, corrected=True)
    totals = "[nvmlDeviceGetTotalEccErrors(g0, kind, age) for kind in (0, 1) for age in (0, 1)]"
    assert client(totals) == [7, 7, 5, 5]
    assert client("[nvmlDeviceGetMemoryErrorCounter(g0, 1, 0, place) for place in (2, 7)]") == [3, 2]
    assert client("nvmlDeviceGetMemoryErrorCounter(g0, 1, 0, 0)") == UNSUPPORTED
    assert client("[field(g0, n) for n in (3, 4, 5, 6, 12)]") == [7, 5, 7, 5, 3]
    client("status = c_nvmlEccSramErrorStatus_v1_t()")
    client("nvmlDeviceGetSramEccErrorStatus(g0, byref(status))")
    assert client("[status.volatileUncSecDed, status.aggregateUncBucketL2]") == [2, 2]
    client("nvmlDeviceClearEccErrorCounts(g0, 0)")
    assert client(totals) == [0, 7, 0, 5]
    assert client("nvmlDeviceGetRetiredPages(g0, 0)") == UNSUPPORTED
    machine.set_driver_loaded(False)
    machine.set_driver_loaded(True)
    client("[nvmlShutdown(), nvmlInit()]")
    client("g0 = nvmlDeviceGetHandleByIndex(0)")
    assert client(totals) == [0, 7, 0, 5]


def test_remapped_rows(client, machine, uuids):
    machine.set_counter(uuids[A100], "remapped_uncorrectable", 2)
    machine.set_counter(uuids[A100], "remap_pending", 1)
    assert client("nvmlDeviceGetRemappedRows(g0)") == [0, 2, 1, 0]
    assert client("[nvmlDeviceGetRowRemapperHistogram(g0).max, field(g0, 302)]") == [638, 1]


def test_the_power_limit_caps_the_clocks(client, machine, uuids):
    reasons = "nvmlDeviceGetCurrentClocksEventReasons(g0)"
    assert client(reasons) == 1
    machine.set_load(uuids[A100], 100)
    assert client(reasons) == 0
    client("nvmlDeviceSetPowerManagementLimit(g0, 200000)")
    assert client(reasons) == 4
    before, after = client("[(time.sleep(0.05), field(g0, 74))[1] for _ in range(2)]")
    assert 0 < before < after
    assert client("nvmlDeviceGetViolationStatus(g0, 0).violationTime") >= after
    machine.set_counter(uuids[A100], "event_reasons", 0x40)
    machine.set_counter(uuids[A100], "hw_thermal_ns", 9)
    assert client(reasons) == 0x44
    assert client("[field(g0, n) for n in (75, 269, 270, 271)]") == [9, 0, 9, 0]
    assert client("nvmlDeviceGetClockInfo(g0, 1)") == 705


def test_clocks_can_be_set(client, machine, uuids):
    assert client("nvmlDeviceGetSupportedMemoryClocks(g0)") == [1593]
    clocks = client("nvmlDeviceGetSupportedGraphicsClocks(g0, 1593)")
    assert (clocks[0], clocks[-1], len(clocks)) == (1410, 210, 81)
    assert client("nvmlDeviceGetSupportedGraphicsClocks(g0, 1)") == MISSING
    assert client("nvmlDeviceSetApplicationsClocks(g0, 1593, 1000)") == BAD_ARGUMENT
    client("nvmlDeviceSetApplicationsClocks(g0, 1593, 1200)")
    machine.set_load(uuids[A100], 50)
    assert client("[nvmlDeviceGetApplicationsClock(g0, 0), nvmlDeviceGetClockInfo(g0, 0)]") == [1200, 1200]
    client("nvmlDeviceResetApplicationsClocks(g0)")
    client("nvmlDeviceSetGpuLockedClocks(g0, 300, 900)")
    assert client("nvmlDeviceGetClockInfo(g0, 0)") == 900
    client("nvmlDeviceResetGpuLockedClocks(g0)")
    assert client("[nvmlDeviceGetClockInfo(g0, 0), nvmlDeviceGetDefaultApplicationsClock(g0, 0)]") == [1410, 1410]
    assert client("nvmlDeviceGetAutoBoostedClocksEnabled(g0)") == UNSUPPORTED


def test_modes_can_be_set(client):
    client("nvmlDeviceSetComputeMode(g0, NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)")
    assert client("nvmlDeviceGetComputeMode(g0)") == 3
    assert client("nvmlDeviceSetComputeMode(g0, 1)") == BAD_ARGUMENT
    client("nvmlDeviceSetAccountingMode(g0, 1)")
    assert client("[nvmlDeviceGetAccountingMode(g0), nvmlDeviceGetAccountingBufferSize(g0)]") == [1, 4000]
    client("nvmlDeviceSetMigMode(g0, 1)")
    assert client("nvmlDeviceGetAccountingMode(g0)") == UNSUPPORTED


def test_what_processes_did(client, machine, uuids):
    assert client("nvmlDeviceGetProcessUtilization(g0, 0)") == MISSING
    for pid in (5000001, 5000002):
        machine.start_process(uuids[A100], pid, "train", GIB)
    machine.set_load(uuids[A100], 60)
    found = client("[(p.pid, p.smUtil) for p in nvmlDeviceGetProcessUtilization(g0, 0)]")
    assert [pid for pid, _ in found] == [5000001, 5000002]
    assert all(27 <= share <= 33 for _, share in found)
    assert client("nvmlDeviceGetAccountingPids(g0)") == []
    client("nvmlDeviceSetAccountingMode(g0, 1)")
    assert client("list(nvmlDeviceGetAccountingPids(g0))") == [5000001, 5000002]
    stats = client("(lambda s: [s.maxMemoryUsage, s.isRunning, s.time])(nvmlDeviceGetAccountingStats(g0, 5000001))")
    assert stats == [GIB, 1, 0]
    assert client("nvmlDeviceGetAccountingStats(g0, 1)") == MISSING


def test_samples_are_newer_than_what_was_seen(client, machine, uuids):
    machine.set_load(uuids[A100], 50)
    client("time.sleep(0.5)")
    client("kind, found = nvmlDeviceGetSamples(g0, NVML_GPU_UTILIZATION_SAMPLES, 0)")
    values = client("[s.sampleValue.uiVal for s in found]")
    assert len(values) >= 4
    assert all(46 <= value <= 54 for value in values)
    assert client("sorted(s.timeStamp for s in found) == [s.timeStamp for s in found]") is True
    assert client("nvmlDeviceGetSamples(g0, 1, found[-1].timeStamp + 10**7)") == MISSING
    assert client("nvmlDeviceGetSamples(g0, NVML_TOTAL_POWER_SAMPLES, 0)[1][0].sampleValue.uiVal") > 55000
    client("nvmlDeviceSetMigMode(g2, 1)")
    assert client("nvmlDeviceGetSamples(g2, 1, 0)") == UNSUPPORTED


def test_topology(client):
    level = "nvmlDeviceGetTopologyCommonAncestor({}, {})"
    assert client(level.format("g0", "g1")) == 10
    assert client(level.format("g0", "g2")) == 50
    assert client(level.format("g2", "g3")) == 40
    assert client(level.format("g0", "g0")) == 0
    assert client("[nvmlDeviceGetIndex(g) for g in nvmlDeviceGetTopologyNearestGpus(g0, 10)]") == [1]
    assert client("[nvmlDeviceGetIndex(g) for g in nvmlSystemGetTopologyGpuSet(16)]") == [2, 3]
    assert client("[nvmlDeviceGetCpuAffinity(g, 1)[0] for g in (g0, g2)]") == [0xFFFF, 0xFFFF0000]
    assert client("nvmlDeviceGetMemoryAffinity(g2, 1, 0)[0]") == 2
    assert client("nvmlDeviceGetNumaNodeId(g0)") == UNSUPPORTED
    assert client("nvmlDeviceGetNumaNodeId(g4)") == 6
    assert client("nvmlDeviceOnSameBoard(g0, g1)") == 0
    assert client("nvmlDeviceGetP2PStatus(g0, g1, NVML_P2P_CAPS_INDEX_NVLINK)") == 0
    client("nvmlDeviceSetMigMode(g0, 1)")
    assert client("nvmlDeviceGetP2PStatus(g0, g1, 0)") == 5


def test_limits_of_temperature(client):
    assert client("nvmlDeviceGetMarginTemperature(g0)") == UNSUPPORTED
    assert client("nvmlDeviceGetMarginTemperature(g2)") == 57
    assert client("[v.value.siVal for v in nvmlDeviceGetFieldValues(g2, [193, 194, 195, 196])]") == [-5, -2, 0, 0]


def test_facts(client):
    assert client("[nvmlDeviceGetPcieSpeed(g0), nvmlDeviceGetPcieLinkMaxSpeed(g2)]") == [16000, 5]
    assert client("[nvmlDeviceGetInforomVersion(g0, number) for number in (0, 1)]") == ["2.0", "6.16"]
    assert client("[nvmlDeviceGetInforomVersion(g2, number) for number in (0, 1)]") == ["2.1", "7.16"]
    assert client("nvmlDeviceGetInforomVersion(g0, NVML_INFOROM_POWER)") == UNSUPPORTED
    assert client("[nvmlDeviceGetInforomImageVersion(g) for g in (g0, g2)]") == ["G506.0210.00.04", "G520.0200.00.04"]
    assert client("nvmlDeviceGetBrand(g0) == NVML_BRAND_NVIDIA") is True
    assert client("nvmlDeviceGetGspFirmwareVersion(g0).decode()") == "580.95.05"
    assert client("nvmlSystemGetDriverBranch().branch") == "r580_00"
    assert client("nvmlSystemGetConfComputeState().ccFeature") == 0
    assert client("[scoped(g4, n, 0) & 0xFFFF for n in (170, 171)]") == [10, 1]
    assert client("nvmlDeviceGetVirtualizationMode(g0)") == 0


def test_facts_that_programs_of_the_field_ask_for(client):
    """nvitop asks for protected memory; the chip's identity and the firmware of NVLinks are there for inventories."""
    assert client("nvmlDeviceGetConfComputeMemSizeInfo(g0)") == UNSUPPORTED
    assert client("nvmlDeviceGetConfComputeMemSizeInfo(g2).protectedMemSizeKib") == 0
    assert client("nvmlDeviceGetConfComputeMemSizeInfo(g2).unprotectedMemSizeKib") == 81559 * 1024
    assert client("nvmlDeviceGetConfComputeProtectedMemoryUsage(g2).total") == 0
    client("import pynvml")
    first, again, other = (client(f"nvmlDeviceGetPdi({name})") for name in ("g0", "g0", "g2"))
    assert first == again != other
    client("links = pynvml.c_nvmlNvLinkInfo_v2_t()")
    assert client("nvmlDeviceGetNvLinkInfo(g2, byref(links))") == 0
    assert client("[links.isNvleEnabled, links.firmwareInfo.numValidEntries]") == [0, 0]
    client("links.version = 7")
    assert client("nvmlDeviceGetNvLinkInfo(g2, byref(links))") == "error 25"


def test_events_name_the_instance(client, machine, uuids):
    client("nvmlDeviceSetMigMode(g2, 1)")
    client("ci = nvmlGpuInstanceCreateComputeInstance(nvmlDeviceCreateGpuInstance(g2, 9), 2)")
    (row,) = machine.mig_layout(uuids[H100]).rows
    client("events = nvmlEventSetCreate()")
    client("nvmlDeviceRegisterEvents(g2, 0x8 | 0x2 | 0x8000, events)")
    told = "(lambda e: [e.eventType, e.eventData, e.gpuInstanceId])(nvmlEventSetWait_v2(events, 60000))"
    client.send(told)
    machine.xid(uuids[H100], 94, row.uuid)
    assert client.receive() == [8, 94, row.gi_id]
    machine.add_ecc_errors(uuids[H100], 1)
    assert client(told)[:2] == [2, 1]
    machine.set_recovery_action(uuids[H100], 1)
    assert client(told)[:2] == [0x8000, 1]
    assert client("field(g2, 230)") == 1
    with pytest.raises(GoneError):
        machine.xid(uuids[H100], 94, "MIG-0")


def test_who_holds_a_gpu_keeps_it_from_a_reset(client, machine, uuids):
    machine.set_held(uuids[A100], 2)
    assert client("nvmlDeviceSetMigMode(g0, 1)") == 19
    machine.set_held(uuids[A100], 0)
    assert client("nvmlDeviceSetMigMode(g0, 1)") == 0
    machine.set_held(uuids[H100], 1)
    assert client("nvmlDeviceSetMigMode(g2, 1)") == 0  # this one needs no reset


def test_a_table_of_private_calls_answers_not_supported() -> None:
    library = ctypes.CDLL(str(library_path()))
    table = ctypes.POINTER(ctypes.c_void_p)()
    assert library.nvmlInternalGetExportTable(ctypes.byref(table), b"\0" * 16) == 0
    assert table[0] is not None
    entries = table[0] // ctypes.sizeof(ctypes.c_void_p) - 1
    assert entries > 200
    assert {ctypes.CFUNCTYPE(ctypes.c_int)(table[number + 1])() for number in range(entries)} == {3}
