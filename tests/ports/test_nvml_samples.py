"""Samples through both NVML adapters, over the simulator library: GPUs, instances, GPM, Xid errors, absences."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from nodeagent.host.nvml_fields import FIELDS
from nodeagent.host.nvml_gpm import GPM_TOTALS
from nodeagent.host.nvml_process import Launch
from nodeagent.host.nvml_worker import WorkerNvml
from nodeagent.simulation.machine import library_path
from nodeagent.state.gpu import GpuSample, Notice, Placement, Xid
from nvml_adapters import ADAPTERS, adapter, machine_in, slots_of

A100, H100 = 0, 1
GIB = 1 << 30
INVALID_ARGUMENT, NOT_SUPPORTED, LOST, VERSION_MISMATCH, UNKNOWN = 2, 3, 15, 25, 999
GPM_APART_SECONDS = 0.15


@pytest.fixture
def machine(tmp_path):
    with machine_in(tmp_path, slots_of("A100-SXM4-40GB", "H100-80GB-HBM3"), "550.90.07") as made:
        yield made


@pytest.fixture(params=ADAPTERS)
def nvml(request, machine):
    with adapter(request.param, machine.environment, 3) as made:
        yield made


def uuid(machine, index):
    return machine.gpus[index].uuid


def test_values_of_the_whole_gpu(nvml, machine):
    machine.set_load(uuid(machine, A100), 80)
    first = nvml.samples()[A100]
    assert first.memory_total_bytes > 39 * GIB
    assert first.video_clock_mhz > 0
    assert first.enforced_power_limit_milliwatts == 400_000
    assert first.pcie_generation_max >= first.pcie_generation >= 1
    assert first.performance_state in range(16)
    assert first.clocks_event_reasons is not None
    assert {3, 4, 82, 94, 142, 143, 144, 145} <= set(first.fields) <= set(FIELDS)
    assert 10 < first.fields[82] < 110
    assert first.read_seconds > 0
    assert first.fan_percent is None, "SXM boards have no fan"


def test_fields_are_the_same_when_asked_again(nvml):
    first, second = nvml.samples()[A100], nvml.samples()[A100]
    assert first.fields.keys() == second.fields.keys()


def test_instances_have_memory_of_their_own(nvml, machine):
    me = uuid(machine, A100)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "1g.5gb", Placement(0, 1))
    nvml.create_gpu_instance(me, "3g.20gb", Placement(4, 4))
    small, big = sorted(nvml.samples()[A100].instances, key=lambda found: found.memory_total_bytes)
    assert small.memory_total_bytes < 5 * GIB < 19 * GIB < big.memory_total_bytes
    gis = {found.placement.start: found.gi_id for gpu in nvml.gpus()[0] if gpu.uuid == me for found in gpu.instances}
    assert (small.gi_id, big.gi_id) == (gis[0], gis[4])
    nvml.destroy_gpu_instance(me, Placement(0, 1))
    assert [found.gi_id for found in nvml.samples()[A100].instances] == [gis[4]]
    assert nvml.samples()[H100].instances == ()


def test_gpm_is_there_from_the_second_sample_on_and_only_where_the_gpu_has_it(nvml, machine):
    machine.set_load(uuid(machine, H100), 90)
    assert nvml.samples()[H100].gpm == {}
    time.sleep(GPM_APART_SECONDS)
    second = nvml.samples()
    assert second[A100].gpm == {}
    assert 0 <= second[H100].gpm[1] <= 100
    assert 0 <= second[H100].gpm[10] <= 100
    assert second[H100].gpm[20] >= 0


def later(nvml) -> GpuSample:
    time.sleep(GPM_APART_SECONDS)
    return next(sample for sample in nvml.samples() if sample.gpm)


def test_totals_of_gpm_only_grow(nvml, machine):
    machine.set_load(uuid(machine, H100), 50)
    nvml.samples()
    first, second = later(nvml).gpm, later(nvml).gpm
    assert set(GPM_TOTALS) <= set(first)
    assert all(second[number] >= first[number] for number in GPM_TOTALS)
    assert all(second[number] > first[number] > 0 for number in (248, 249, 255, 256))


@pytest.mark.parametrize(("refusals", "totals"), [(1, False), (2, True)])
def test_a_driver_that_refuses_ids_newer_than_itself_is_asked_for_the_first_ones(nvml, machine, refusals, totals):
    """Refused again, it was not for the ids: that costs the reading, and the next one asks for all."""
    nvml.samples()
    time.sleep(GPM_APART_SECONDS)
    machine.fail(None, "nvmlGpmMetricsGet", INVALID_ARGUMENT, refusals)
    found = {sample.uuid: sample for sample in nvml.samples()}
    assert (uuid(machine, H100) in found) is (refusals == 1)
    if refusals == 1:
        assert max(found[uuid(machine, H100)].gpm) == 97, "and 98 was the end when GPM was new"
    nvml.samples()
    gpm = later(nvml).gpm
    assert (248 in gpm) is totals
    assert 1 in gpm


def test_gpm_of_instances(nvml, machine):
    me = uuid(machine, H100)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "1g.10gb", Placement(0, 1))
    nvml.samples()
    time.sleep(GPM_APART_SECONDS)
    (instance,) = nvml.samples()[H100].instances
    assert 0 <= instance.gpm[1] <= 100
    assert not instance.gpm.keys() & {20, 21, 60, 61, *GPM_TOTALS}, "PCIe, NVLink, totals belong to the whole GPU"


@pytest.fixture
def divided(nvml, machine):
    """An H100 with a hole: instances of two profiles, and one between them that went."""
    me = uuid(machine, H100)
    nvml.set_mig_mode(me, enabled=True)
    for profile, start, size in (("1g.10gb", 0, 1), ("1g.10gb", 1, 1), ("3g.40gb", 4, 4)):
        nvml.create_gpu_instance(me, profile, Placement(start, size))
    nvml.destroy_gpu_instance(me, Placement(0, 1))
    nvml.samples()
    return nvml


def test_an_instance_with_several_devices_is_there_once(nvml, machine):
    me = uuid(machine, H100)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "3g.40gb", Placement(4, 4), (1, 2))
    (instance,) = nvml.samples()[H100].instances
    assert instance.memory_total_bytes > 39 * GIB
    assert nvml.samples()[H100].calls["nvmlDeviceGetGpuInstanceId"][0] == 2


def test_the_calls_for_instances_are_made_for_those_that_are_there(divided):
    calls = divided.samples()[H100].calls
    assert calls["nvmlDeviceGetMigDeviceHandleByIndex"][0] == 7
    assert calls["nvmlDeviceGetGpuInstanceId"][0] == 2
    assert calls["nvmlDeviceGetMemoryInfo_v2"][0] == 3, "the GPU's own besides"


def test_a_driver_without_reserved_memory_is_asked_the_older_way_at_once(divided, machine):
    machine.fail(uuid(machine, H100), "nvmlDeviceGetMemoryInfo", VERSION_MISMATCH, 4)  # the GPU's own first, both ways
    for sample in (divided.samples()[H100], divided.samples()[H100]):
        small, big = sorted(sample.instances, key=lambda found: found.memory_total_bytes)
        assert small.memory_total_bytes < 11 * GIB < 39 * GIB < big.memory_total_bytes
        assert small.memory_used_bytes is not None
        assert small.memory_reserved_bytes is None
    assert "nvmlDeviceGetMemoryInfo_v2" not in sample.calls


def test_instances_are_told_of_where_their_memory_is_not(divided, machine):
    machine.fail(uuid(machine, H100), "nvmlDeviceGetMemoryInfo", NOT_SUPPORTED, 1000)
    sample = divided.samples()[H100]
    assert [found.memory_total_bytes for found in sample.instances] == [None, None]
    assert len({found.gi_id for found in sample.instances}) == 2


@pytest.mark.parametrize("function", ["nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetGpuInstanceId"])
def test_an_instance_that_cannot_be_asked_costs_only_itself(divided, machine, function):
    machine.fail(uuid(machine, H100), function, NOT_SUPPORTED, 2)  # the first two indexes; one is a hole
    before = {sample.uuid: len(sample.instances) for sample in divided.samples()}
    after = {sample.uuid: len(sample.instances) for sample in divided.samples()}
    assert before[uuid(machine, H100)] < after[uuid(machine, H100)] == 2


def test_a_gpu_lost_among_its_instances_is_lost(divided, machine):
    machine.fail(uuid(machine, H100), "nvmlDeviceGetGpuInstanceId", LOST, 1)
    assert uuid(machine, H100) not in {sample.uuid for sample in divided.samples()}
    assert len(divided.samples()[H100].instances) == 2


def test_gpm_of_an_instance_that_was_made_anew_begins_anew(divided, machine):
    """It may have the id of the one before it, whose sample is of other work."""
    me = uuid(machine, H100)
    time.sleep(GPM_APART_SECONDS)
    assert all(found.gpm for found in divided.samples()[H100].instances)
    divided.destroy_gpu_instance(me, Placement(4, 4))
    divided.create_gpu_instance(me, "3g.40gb", Placement(4, 4))
    time.sleep(GPM_APART_SECONDS)
    anew = divided.samples()[H100]
    assert anew.gpm, "the GPU is the same"
    assert [found.gpm for found in anew.instances] == [{}, {}]
    time.sleep(GPM_APART_SECONDS)
    assert all(found.gpm for found in divided.samples()[H100].instances)


def test_gpm_that_one_instance_lacks_for_once_leaves_the_others(divided, machine):
    time.sleep(GPM_APART_SECONDS)
    machine.fail(uuid(machine, H100), "nvmlGpmMigSampleGet", INVALID_ARGUMENT, 1)
    sample = divided.samples()[H100]
    assert sorted(bool(found.gpm) for found in sample.instances) == [False, True]
    assert sample.gpm


def test_xids_come_with_the_next_sample_of_their_gpu_and_once(nvml, machine):
    assert [sample.xids for sample in nvml.samples()] == [(), ()]
    machine.xid(uuid(machine, H100), 31)
    machine.xid(uuid(machine, H100), 79)
    assert [sample.xids for sample in nvml.samples()] == [(), (Xid(31), Xid(79))]
    assert [sample.xids for sample in nvml.samples()] == [(), ()]


def test_notices_come_with_the_next_sample_of_their_gpu_and_once(nvml, machine):
    assert [sample.notices for sample in nvml.samples()] == [(), ()]
    machine.add_ecc_errors(uuid(machine, A100), 1)
    machine.add_ecc_errors(uuid(machine, A100), 3)
    machine.add_ecc_errors(uuid(machine, A100), 5, corrected=True)
    machine.set_recovery_action(uuid(machine, H100), 1)
    machine.send_event(uuid(machine, H100), 0x4000, 0)
    told = [set(sample.notices) for sample in nvml.samples()]
    assert told == [{Notice.DOUBLE_BIT}, {Notice.RECOVERY, Notice.UNAVAILABLE}]
    assert [sample.notices for sample in nvml.samples()] == [(), ()]


def test_too_many_errors_of_memory_on_the_chip_are_told(nvml, machine):
    assert [sample.sram_threshold_exceeded for sample in nvml.samples()] == [False, False]
    machine.add_ecc_errors(uuid(machine, H100), 4, sram=True)
    assert [sample.sram_threshold_exceeded for sample in nvml.samples()] == [False, True]


def test_an_xid_names_its_instance(nvml, machine):
    me = uuid(machine, A100)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "1g.5gb", Placement(2, 1))
    (instance,) = nvml.samples()[A100].instances
    (mig,) = (compute.uuid for gpu in nvml.gpus()[0] for found in gpu.instances for compute in found.compute_instances)
    machine.xid(me, 43, mig)
    assert nvml.samples()[A100].xids == (Xid(43, instance.gi_id),)


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlGpmQueryDeviceSupport",
        "nvmlDeviceGetEncoderUtilization",
    ],
)
def test_a_driver_that_lacks_a_function_costs_only_its_values(nvml, machine, function):
    machine.fail(uuid(machine, H100), function, NOT_SUPPORTED, 1000)
    found = nvml.samples()[H100]
    assert found.temperature_celsius is not None
    assert found.memory_used_bytes is not None


def test_a_fault_of_one_gpu_leaves_the_others(nvml, machine):
    machine.fail(uuid(machine, A100), "nvmlDeviceGetFieldValues", UNKNOWN, 1)
    assert [sample.uuid for sample in nvml.samples()] == [uuid(machine, H100)]
    assert len(nvml.samples()) == 2


def test_a_new_session_starts_anew(nvml, machine):
    nvml.samples()
    nvml.release()
    machine.xid(uuid(machine, A100), 79)
    assert nvml.samples()[A100].xids == (), "events before registration are not ours"
    assert len(nvml.samples()) == 2


def test_hangs_are_counted(machine, tmp_path):
    environment = {"NVMLSIM_MACHINE": str(tmp_path / "machine")}
    with closing(WorkerNvml(Launch(str(library_path()), environment), 0.5)) as worker:
        assert len(worker.samples()) == 2
        machine.hang(uuid(machine, A100), "nvmlDeviceGetFieldValues", 30)
        assert [sample.uuid for sample in worker.samples()] == [uuid(machine, H100)]
        assert worker.hangs() == 1
