"""The contract of compute instances in the NVML port, for both adapters, over the simulator library."""

from __future__ import annotations

import pytest

from nodeagent.errors import BusyError, GoneError, UnsupportedError
from nodeagent.state.gpu import MigMode, Placement
from nvml_adapters import ADAPTERS, adapter, machine_in, slots_of

LOW, HIGH = Placement(0, 4), Placement(4, 4)
FIRST, SECOND, THIRD, WHOLE = Placement(0, 1), Placement(1, 1), Placement(2, 1), Placement(0, 3)
RESET_REQUIRED, IN_USE, UNKNOWN = 16, 19, 999


@pytest.fixture
def machine(tmp_path):
    with machine_in(tmp_path, slots_of("A100-SXM4-40GB", "H100-80GB-HBM3"), "550.90.07") as made:
        yield made


@pytest.fixture(params=ADAPTERS)
def nvml(request, machine):
    with adapter(request.param, machine.environment) as made:
        for one in machine.gpus:
            made.set_mig_mode(one.uuid, True)
        yield made


def parts(nvml, uuid: str) -> dict[int, list[tuple[str, int, int]]]:
    (found,) = (one for one in nvml.gpus()[0] if one.uuid == uuid)
    return {
        one.placement.start: sorted((ci.profile, ci.placement.start, ci.placement.size) for ci in one.compute_instances)
        for one in found.instances
    }


def test_a_gpu_instance_is_created_with_its_parts(nvml, machine):
    me = machine.gpus[0].uuid
    nvml.create_gpu_instance(me, "3g.20gb", HIGH, (1, 2))
    assert parts(nvml, me) == {4: [("1c.3g.20gb", 2, 1), ("2c.3g.20gb", 0, 2)]}
    nvml.create_gpu_instance(me, "3g.20gb", LOW, (0,))
    assert parts(nvml, me)[0] == [("3g.20gb", 0, 3)]


def test_compute_instances_come_and_go_in_place(nvml, machine):
    me = machine.gpus[0].uuid
    nvml.create_gpu_instance(me, "3g.20gb", LOW)
    nvml.destroy_compute_instance(me, LOW, WHOLE)
    assert parts(nvml, me) == {0: []}
    nvml.create_compute_instance(me, LOW, 1, THIRD)
    nvml.create_compute_instance(me, LOW, 1, FIRST)
    assert parts(nvml, me) == {0: [("1c.3g.20gb", 0, 1), ("1c.3g.20gb", 2, 1)]}
    nvml.destroy_compute_instance(me, LOW, FIRST)
    nvml.destroy_compute_instance(me, LOW, THIRD)
    nvml.create_compute_instance(me, LOW, 0, WHOLE)
    assert parts(nvml, me) == {0: [("3g.20gb", 0, 3)]}


def test_the_wide_and_the_narrow_one_slice_of_a_double_memory_profile(nvml, machine):
    me = machine.gpus[1].uuid
    nvml.create_gpu_instance(me, "1g.20gb", Placement(0, 2))
    nvml.create_gpu_instance(me, "1g.20gb", Placement(2, 2), (1,))
    assert parts(nvml, me) == {0: [("1g.20gb", 0, 1)], 2: [("1c.1g.20gb", 0, 1)]}


def test_what_each_gpu_instance_offers_is_read_from_the_driver(nvml, machine):
    nvml.create_gpu_instance(machine.gpus[0].uuid, "4g.20gb", LOW)
    (found,) = (one for one in nvml.gpus()[0] if one.uuid == machine.gpus[0].uuid)
    offered = {one.name: one for one in found.instances[0].compute_profiles}
    assert set(offered) == {"1c.4g.20gb", "2c.4g.20gb", "4g.20gb"}
    assert [name for name, one in offered.items() if one.fills] == ["4g.20gb"]
    assert offered["2c.4g.20gb"].placements == (Placement(0, 2), Placement(2, 2))
    assert found.pci_device_id == 0x20B010DE
    assert {one.name: one.enumerator for one in found.profiles}["1g.5gb+me"] == 7


def test_refusals_name_their_cause(nvml, machine):
    me = machine.gpus[0].uuid
    nvml.create_gpu_instance(me, "3g.20gb", LOW)
    with pytest.raises(BusyError, match=r"create compute instance at 0:1 of instance 0 on gpu GPU-.*: no room in the"):
        nvml.create_compute_instance(me, LOW, 1, FIRST)
    with pytest.raises(GoneError, match=r"there is no compute instance at this place"):
        nvml.destroy_compute_instance(me, LOW, FIRST)
    with pytest.raises(GoneError, match=r"there is no GPU instance at this placement; there are: 3g.20gb at 0:4"):
        nvml.destroy_compute_instance(me, HIGH, WHOLE)
    with pytest.raises(
        UnsupportedError, match=r"does not offer this; it offers 1c.3g.20gb at 0, 1, 2; 2c.3g.20gb at 0;"
    ):
        nvml.create_compute_instance(me, LOW, 2, Placement(1, 2))
    with pytest.raises(UnsupportedError, match=r"no such compute instance profile; it offers 1c"):
        nvml.create_gpu_instance(me, "3g.20gb", HIGH, (4,))
    with pytest.raises(BusyError, match=r"no room for compute instances 2c.3g.20gb, 2c.3g.20gb"):
        nvml.create_gpu_instance(me, "3g.20gb", HIGH, (2, 2))
    assert list(parts(nvml, me)) == [0], "what could not be made whole is not left half"


def test_a_part_in_use_is_not_destroyed_and_its_user_is_named(nvml, machine):
    me = machine.gpus[0].uuid
    nvml.create_gpu_instance(me, "3g.20gb", LOW, (1, 1))
    (found,) = (one for one in nvml.gpus()[0] if one.uuid == me)
    device = next(ci.uuid for ci in found.instances[0].compute_instances if ci.placement == SECOND)
    machine.start_process(me, 4_300_000, "python", 1 << 20, device)
    with pytest.raises(BusyError, match=r"in use by process 4300000; end the work"):
        nvml.destroy_compute_instance(me, LOW, SECOND)
    nvml.destroy_compute_instance(me, LOW, FIRST)
    assert parts(nvml, me) == {0: [("1c.3g.20gb", 1, 1)]}


def test_a_second_part_that_fails_takes_the_whole_instance_with_it(nvml, machine):
    me = machine.gpus[0].uuid
    machine.fail(me, "nvmlGpuInstanceCreateComputeInstanceWithPlacement", UNKNOWN, 1)
    with pytest.raises(Exception, match="internal error"):
        nvml.create_gpu_instance(me, "3g.20gb", LOW, (1, 1))
    assert parts(nvml, me) == {}


def test_a_gpu_whose_reset_was_refused_says_so_while_the_mode_is_pending(nvml, machine):
    me = machine.gpus[0].uuid
    assert not any(one.needs_reboot for one in nvml.gpus()[0])
    machine.fail(me, "nvmlDeviceSetMigMode", RESET_REQUIRED, 1)
    with pytest.raises(UnsupportedError, match="needs a reset"):
        nvml.set_mig_mode(me, False)
    assert not any(one.needs_reboot for one in nvml.gpus()[0]), "nothing is pending"
    assert {one.mig_mode for one in nvml.gpus()[0]} == {MigMode.ENABLED}
