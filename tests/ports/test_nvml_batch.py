"""Batches of NVML calls: every value keeps its own return code, and a call that failed for good is the last."""

from __future__ import annotations

import os
from contextlib import closing
from struct import pack

import pytest

from nodeagent.errors import GoneError
from nodeagent.host import nvml_batch, nvml_fields
from nodeagent.host.nvml import InProcessNvml
from nodeagent.host.nvml_fields import FieldArray
from nodeagent.simulation.machine import BoardAt, Machine, library_path

NOT_SUPPORTED, NO_PERMISSION, LOST, VERSION_MISMATCH = 3, 4, 15, 25
ONE = {"power_milliwatts": "nvmlDeviceGetPowerUsage", "pcie_width": "nvmlDeviceGetCurrPcieLinkWidth"}


@pytest.fixture
def machine(tmp_path):
    devices = tmp_path / "devices"
    devices.mkdir()
    for name in ("nvidiactl", "nvidia0"):
        (devices / name).touch()
    boards = [BoardAt(board="H100-80GB-HBM3", pci_address="0000:3b:00.0", minor=0, seed="0")]
    with Machine.create(str(tmp_path / "machine"), boards, str(devices), "550.90.07") as made:
        yield made


@pytest.fixture
def nvml(machine, tmp_path):
    before = dict(os.environ)
    with closing(InProcessNvml(library_path(), {"NVMLSIM_MACHINE": str(tmp_path / "machine")})) as made:
        yield made
    os.environ.clear()
    os.environ.update(before)


def test_a_value_that_is_refused_once_comes_back(nvml, machine):
    machine.fail(machine.gpus[0].uuid, ONE["power_milliwatts"], NO_PERMISSION, 1)
    (first,), (second,) = nvml.samples(), nvml.samples()
    assert first.power_milliwatts is None
    assert first.pcie_width is not None
    assert second.power_milliwatts > 0


def test_a_value_that_the_gpu_lacks_is_asked_for_once(nvml, machine):
    machine.fail(machine.gpus[0].uuid, ONE["power_milliwatts"], NOT_SUPPORTED, 1)
    (first,), (second,) = nvml.samples(), nvml.samples()
    assert ONE["power_milliwatts"] in first.calls
    assert ONE["power_milliwatts"] not in second.calls
    assert (first.power_milliwatts, second.power_milliwatts) == (None, None)
    nvml.release()
    assert nvml.samples()[0].power_milliwatts > 0, "the next session asks again"


def test_what_a_driver_lacks_is_asked_the_older_way_at_once(nvml, machine):
    machine.fail(machine.gpus[0].uuid, "nvmlDeviceGetTemperature", NOT_SUPPORTED, 1)  # meets the newer one first
    machine.fail(machine.gpus[0].uuid, "nvmlDeviceGetGpuFabricInfoV", VERSION_MISMATCH, 1)
    (first,), (second,) = nvml.samples(), nvml.samples()
    assert first.temperature_celsius > 0
    assert second.temperature_celsius > 0
    assert "nvmlDeviceGetTemperatureV" not in second.calls
    assert second.calls["nvmlDeviceGetTemperature"][0] == 1
    assert [one.calls["nvmlDeviceGetGpuFabricInfoV"][0] for one in (first, second)] == [2, 1]
    assert first.fabric is not None
    assert first.fabric == second.fabric


def test_nothing_more_is_asked_of_a_gpu_that_is_lost(nvml, machine):
    """In the middle of a batch, as when it falls off the bus just then; the call after it would answer."""
    nvml.samples()
    uuid = machine.gpus[0].uuid
    machine.fail(uuid, ONE["power_milliwatts"], LOST, 1)
    machine.fail(uuid, ONE["pcie_width"], NO_PERMISSION, 1)
    assert nvml.samples() == ()
    with pytest.raises(GoneError, match="lost"):
        machine.fail(uuid, ONE["power_milliwatts"], LOST, 1)
        nvml.sample(0)
    (after,) = nvml.samples()
    assert after.power_milliwatts > 0
    assert after.pcie_width is None, "the refusal was not used up by the rounds that ended before it"


def test_calls_are_counted_and_timed_by_function(nvml):
    (sample,) = nvml.samples()
    assert sample.calls["nvmlDeviceGetClockInfo"][0] == 3
    assert sample.calls["nvmlDeviceGetNvLinkState"][0] == len(sample.nvlinks) == 18
    assert all(count > 0 and seconds > 0 for count, seconds in sample.calls.values())


def test_a_library_may_lack_any_function(nvml):
    nvml.samples()
    assert nvml_batch.address("nvmlDeviceGetUUID")
    assert nvml_batch.address("nvmlDeviceGetNothing") is None


def test_memory_is_what_it_was_before_each_run(nvml):
    nvml.samples()
    call = nvml_batch.Call("nvmlSystemGetDriverVersion", "I", ("number",), given=pack("=I", 7), tolerated=(1 << 64) - 1)
    batch = nvml_batch.Batch((call,))
    assert batch.run() == 0
    assert batch.failed() == {0: 2}, "the first argument is missing"
    assert batch.values({}) == {"number": 7}
    assert batch.values(batch.failed()) == {}


FIELD = nvml_fields._FIELD_VALUE
VALUES = [  # field, time, kind of value, status, the union's bytes; what comes of it
    ((82, 1, 1, 0, pack("=Ixxxx", 41)), {82: 41}),
    ((74, 1, 3, 0, pack("=Q", 1 << 60)), {74: 1 << 60}),
    ((29, 1, 2, 0, pack("=Q", 5)), {29: 5}),
    ((193, 1, 5, 0, pack("=ixxxx", -7)), {193: -7}),
    ((194, 1, 4, 0, pack("=q", -(1 << 40))), {194: -(1 << 40)}),
    ((185, 1, 0, 0, pack("=d", 0.5)), {185: 0.5}),
    ((186, 1, 6, 0, pack("=H6x", 65535)), {186: 65535}),
    ((187, 1, 9, 0, pack("=Q", 1)), {}),  # a kind that is not known
    ((3, 0, 3, 0, pack("=Q", 0)), {}),  # ECC is off: no time
    ((4, 1, 0, 0, pack("=Q", 0)), {}),  # ECC is off: a double
    ((5, 1, 3, 0, pack("=Q", 2)), {5: 2}),
    ((6, 1, 3, 999, pack("=Q", 2)), {}),
]


def test_field_values_of_every_kind():
    array = FieldArray(row[0][0] for row in VALUES)
    for place, ((field, stamp, kind, status, raw), _) in enumerate(VALUES):
        value = int.from_bytes(raw, "little")
        FIELD.pack_into(array._buffer, place * FIELD.size, field, 0, stamp, 0, kind, status, value)
    found, less = array.read()
    assert found == {field: value for _, expected in VALUES for field, value in expected.items()}
    assert [type(found[field]) for field in (82, 193, 185)] == [int, int, float]
    assert less is None


def test_fields_that_the_gpu_lacks_are_left_out_from_then_on():
    array = FieldArray((82, 94, 138))
    FIELD.pack_into(array._buffer, 0, 82, 0, 1, 0, 1, NOT_SUPPORTED, 0)
    FIELD.pack_into(array._buffer, FIELD.size, 94, 0, 1, 0, 1, 999, 0)
    FIELD.pack_into(array._buffer, 2 * FIELD.size, 138, 0, 1, 0, 3, 0, 12)
    found, less = array.read()
    assert found == {138: 12}
    assert less is not None
    assert less.call().number == 2
    assert [FIELD.unpack_from(less._buffer, place * FIELD.size)[:2] for place in (0, 1)] == [(94, 0), (138, 0xFFFFFFFF)]
    assert FieldArray(()).call() is None
