"""The contract of the NVML port, the same for the adapter in this process and for the one with a worker process.

Both stand on nvidia-ml-py over the simulator library, which is loaded as a driver's library would be.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, DeniedError, GoneError, UnsupportedError
from nodeagent.host.nvml_errors import CORRUPTED_INFOROM, NOT_SUPPORTED
from nodeagent.host.nvml_process import Launch
from nodeagent.host.nvml_worker import WorkerNvml
from nodeagent.simulation.machine import library_path
from nodeagent.state.gpu import MigMode, Placement
from nvml_adapters import ADAPTERS, adapter, machine_in, slots_of

BOARDS = ("A100-SXM4-40GB", "A100-SXM4-40GB", "H100-80GB-HBM3")
DEADLINE_SECONDS = 3


@pytest.fixture
def machine(tmp_path):
    with machine_in(tmp_path, slots_of(*BOARDS), "550.90.07") as made:
        yield made


@pytest.fixture
def environment(machine, tmp_path):
    before = dict(os.environ)
    yield {"NVMLSIM_MACHINE": str(tmp_path / "machine")}
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def worker(environment):
    with closing(WorkerNvml(Launch(str(library_path()), environment), DEADLINE_SECONDS)) as nvml:
        yield nvml


@pytest.fixture(params=ADAPTERS)
def nvml(request, environment):
    with adapter(request.param, environment, DEADLINE_SECONDS) as made:
        yield made


def uuid(machine, index: int) -> str:
    return machine.gpus[index].uuid


def gpu(nvml, wanted: str):
    gpus, faults = nvml.gpus()
    assert faults == ()
    return next(found for found in gpus if found.uuid == wanted)


def layout(nvml, wanted: str) -> list[tuple[str, int, int]]:
    return [(i.profile, i.placement.start, len(i.compute_instances)) for i in gpu(nvml, wanted).instances]


def holders(directory: Path) -> set[int]:
    """PIDs with a file of this directory open."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if Path(os.readlink(entry)).parent == directory:
                found.add(int(entry.parts[2]))
        except OSError:
            continue
    return found


@contextmanager
def program(code: str):
    """A foreign process that has said it is ready."""
    command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\nimport time\ntime.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_gpus_are_as_the_machine_has_them(nvml, machine):
    gpus, faults = nvml.gpus()
    assert faults == ()
    assert [(g.uuid, g.pci_address, g.minor, g.product) for g in gpus] == [
        (g.uuid, g.pci_address, g.minor, g.product) for g in machine.gpus
    ]
    assert [g.resetless_mig for g in gpus] == [False, False, True]
    assert {(g.mig_mode, g.pending_mig_mode) for g in gpus} == {(MigMode.DISABLED, MigMode.DISABLED)}
    assert all(g.memory_total_bytes > 39 * 2**30 for g in gpus)
    assert all(g.instances == () and g.pids == () for g in gpus)


def test_boards_say_what_they_are_and_what_firmware_they_have(nvml, machine):
    """Serial numbers differ; these boards have no power management object."""
    read = [gpu(nvml, found.uuid) for found in machine.gpus]
    assert [(g.inforom, g.inforom_oem, g.inforom_ecc, g.inforom_power) for g in read[1:]] == [
        ("G506.0200.00.04", "2.0", "6.16", ""),
        ("G520.0200.00.04", "2.1", "7.16", ""),
    ]
    assert {(g.brand, g.nvml_version) for g in read} == {(14, "12.550.90.07")}
    assert len({g.serial for g in read}) == 3
    assert all(g.serial.isdigit() for g in read)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, CORRUPTED_INFOROM])
def test_what_a_board_does_not_tell_of_itself_costs_nothing_else(nvml, machine, code):
    """A corrupt InfoROM is no reason to lose sight of the GPU."""
    for function in ("Serial", "Brand", "InforomVersion", "InforomImageVersion"):
        if function != "Brand" or code == NOT_SUPPORTED:
            machine.fail(uuid(machine, 2), f"nvmlDeviceGet{function}", code, 1000)
    found = gpu(nvml, uuid(machine, 2))
    assert (found.serial, found.inforom, found.inforom_oem, found.inforom_ecc) == ("", "", "", "")
    assert found.brand == (None if code == NOT_SUPPORTED else 14)
    assert found.vbios == "96.00.68.00.01"


def test_profiles_have_the_names_ids_and_placements_of_the_driver(nvml, machine):
    profiles = {profile.name: profile for profile in gpu(nvml, uuid(machine, 0)).profiles}
    assert (profiles["3g.20gb"].profile_id, profiles["3g.20gb"].slice_count) == (9, 3)
    assert profiles["3g.20gb"].placements == (Placement(0, 4), Placement(4, 4))
    assert profiles["1g.5gb"].placements == tuple(Placement(start, 1) for start in range(7))
    assert profiles["1g.5gb+me"].instance_count == 1


def test_without_a_driver_there_is_no_session(nvml, machine):
    machine.set_driver_loaded(False)
    with pytest.raises(GoneError, match=r"^open NVML: the nvidia driver is not loaded; load module nvidia$"):
        nvml.gpus()
    with pytest.raises(GoneError):
        nvml.samples()
    assert nvml.pid() is None
    machine.set_driver_loaded(True)
    assert len(nvml.gpus()[0]) == 3


def test_release_lets_go_of_every_device_file(nvml, tmp_path):
    assert nvml.pid() is None
    nvml.release()
    nvml.gpus()
    assert nvml.pid() in holders(tmp_path / "dev")
    nvml.release()
    assert nvml.pid() is None
    assert holders(tmp_path / "dev") == set()
    assert len(nvml.gpus()[0]) == 3, "the session opens again by itself"


@pytest.mark.parametrize("index", [0, 2], ids=["Ampere", "Hopper"])
def test_mig_from_mode_to_instances_and_back(nvml, machine, index):
    me = uuid(machine, index)
    nvml.gpus()
    nvml.set_mig_mode(me, enabled=True)
    found = gpu(nvml, me)
    assert (found.mig_mode, found.pending_mig_mode) == (MigMode.ENABLED, MigMode.ENABLED)
    by_slices = {profile.slice_count: profile.name for profile in found.profiles if "+" not in profile.name}
    small = next(p.name for p in found.profiles if p.slice_count == 1 and Placement(1, 1) in p.placements)
    nvml.create_gpu_instance(me, by_slices[3], Placement(4, 4))
    nvml.create_gpu_instance(me, small, Placement(1, 1))
    assert layout(nvml, me) == [(small, 1, 1), (by_slices[3], 4, 1)]
    devices = [compute.uuid for i in gpu(nvml, me).instances for compute in i.compute_instances]
    assert len(set(devices)) == 2
    assert all(device.startswith("MIG-") for device in devices)
    nvml.destroy_gpu_instance(me, Placement(1, 1))
    nvml.destroy_gpu_instance(me, Placement(4, 4))
    assert layout(nvml, me) == []
    nvml.set_mig_mode(me, enabled=False)
    assert gpu(nvml, me).mig_mode is MigMode.DISABLED
    assert gpu(nvml, uuid(machine, 1)).mig_mode is MigMode.DISABLED


def test_the_compute_instance_fills_a_double_memory_instance(nvml, machine):
    me = uuid(machine, 2)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "1g.20gb", Placement(0, 2))
    assert layout(nvml, me) == [("1g.20gb", 0, 1)]
    assert gpu(nvml, me).instances[0].compute_instances[0].profile == "1g.20gb"


def test_no_room_names_what_is_there(nvml, machine):
    me = uuid(machine, 0)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "3g.20gb", Placement(0, 4))
    with pytest.raises(BusyError, match=r"at 0:4 on gpu GPU-.*: no room on the gpu; there are: 3g\.20gb at 0:4$"):
        nvml.create_gpu_instance(me, "4g.20gb", Placement(0, 4))
    assert layout(nvml, me) == [("3g.20gb", 0, 1)]


def test_a_wrong_placement_or_profile_names_the_right_ones(nvml, machine):
    me = uuid(machine, 0)
    nvml.set_mig_mode(me, enabled=True)
    with pytest.raises(UnsupportedError, match=r"not a placement of this profile; it can stand at 0:4, 4:4$"):
        nvml.create_gpu_instance(me, "3g.20gb", Placement(2, 4))
    with pytest.raises(UnsupportedError, match=r"no profile 3g\.40gb; it offers .*3g\.20gb"):
        nvml.create_gpu_instance(me, "3g.40gb", Placement(0, 4))


def test_a_process_on_the_gpu_is_named_and_nothing_stays_pending(nvml, machine):
    me = uuid(machine, 0)
    with program("") as work:
        machine.start_process(me, work.pid, "train", 2**30)
        assert gpu(nvml, me).pids == (work.pid,)
        with pytest.raises(BusyError, match=f"^enable MIG on gpu {me}: in use by process {work.pid}; "):
            nvml.set_mig_mode(me, enabled=True)
        found = gpu(nvml, me)
        assert (found.mig_mode, found.pending_mig_mode) == (MigMode.DISABLED, MigMode.DISABLED)
        nvml.set_mig_mode(uuid(machine, 1), enabled=True)
    nvml.set_mig_mode(me, enabled=True)


def test_a_client_that_nvml_does_not_know_is_said_to_be_there(nvml, machine, tmp_path):
    device = tmp_path / "dev" / "nvidia0"
    with (
        program(f"held = open({str(device)!r}, 'r+b')"),
        pytest.raises(BusyError, match="in use by a client that NVML does not list"),
    ):
        nvml.set_mig_mode(uuid(machine, 0), enabled=True)


def test_an_instance_in_use_stays_whole(nvml, machine):
    me = uuid(machine, 0)
    nvml.set_mig_mode(me, enabled=True)
    nvml.create_gpu_instance(me, "2g.10gb", Placement(0, 2))
    device = gpu(nvml, me).instances[0].compute_instances[0].uuid
    with program("") as work:
        machine.start_process(me, work.pid, "serve", 2**30, mig_uuid=device)
        assert gpu(nvml, me).instances[0].pids == (work.pid,)
        with pytest.raises(BusyError, match=f"^destroy instance at 0:2 on gpu {me}: in use by process {work.pid}; "):
            nvml.destroy_gpu_instance(me, Placement(0, 2))
        assert gpu(nvml, me).instances[0].compute_instances[0].uuid == device
        machine.end_process(work.pid)
    nvml.destroy_gpu_instance(me, Placement(0, 2))


def test_a_missing_instance_or_gpu_is_gone(nvml, machine):
    me = uuid(machine, 0)
    nvml.set_mig_mode(me, enabled=True)
    with pytest.raises(GoneError, match="there is no instance at this placement; the gpu has no instances"):
        nvml.destroy_gpu_instance(me, Placement(0, 4))
    with pytest.raises(GoneError, match="GPU-00000000-0000-0000-0000-000000000000"):
        nvml.create_gpu_instance("GPU-00000000-0000-0000-0000-000000000000", "1g.5gb", Placement(0, 1))


def test_a_missing_privilege_is_denied(nvml, machine):
    me = uuid(machine, 0)
    machine.fail(me, "nvmlDeviceSetMigMode", 4, 1)
    with pytest.raises(DeniedError, match="permission denied; run as root"):
        nvml.set_mig_mode(me, enabled=True)


def test_an_instance_whose_second_half_fails_is_not_left_behind(nvml, machine):
    me = uuid(machine, 0)
    nvml.set_mig_mode(me, enabled=True)
    machine.fail(me, "nvmlGpuInstanceCreateComputeInstance", 23, 1)
    with pytest.raises(BusyError):
        nvml.create_gpu_instance(me, "3g.20gb", Placement(0, 4))
    assert layout(nvml, me) == []


def test_an_instance_without_compute_instance_is_seen_named_and_destroyed(nvml, machine):
    me = uuid(machine, 0)
    nvml.set_mig_mode(me, enabled=True)
    machine.fail(me, "nvmlGpuInstanceCreateComputeInstance", 23, 1)
    machine.fail(me, "nvmlGpuInstanceDestroy", 19, 1)
    with pytest.raises(BusyError):
        nvml.create_gpu_instance(me, "3g.20gb", Placement(0, 4))
    assert layout(nvml, me) == [("3g.20gb", 0, 0)]
    with pytest.raises(BusyError, match=r"there are: 3g\.20gb at 0:4 \(without compute instance\)"):
        nvml.create_gpu_instance(me, "2g.10gb", Placement(0, 2))
    nvml.destroy_gpu_instance(me, Placement(0, 4))
    assert layout(nvml, me) == []


def test_a_lost_gpu_is_a_fault_and_the_others_are_read(nvml, machine):
    nvml.gpus()
    machine.lose(uuid(machine, 1), lost=True)
    gpus, faults = nvml.gpus()
    assert [found.uuid for found in gpus] == [uuid(machine, 0), uuid(machine, 2)]
    assert [(fault.uuid, "the gpu is lost" in fault.reason) for fault in faults] == [(uuid(machine, 1), True)]
    assert [sample.uuid for sample in nvml.samples()] == [uuid(machine, 0), uuid(machine, 2)]
    machine.lose(uuid(machine, 1), lost=False)
    assert len(nvml.gpus()[0]) == 3


def test_samples_follow_the_load(nvml, machine):
    machine.set_load(uuid(machine, 0), 90)
    busy, idle, _ = nvml.samples()
    assert busy.utilization_gpu_percent > 60 > idle.utilization_gpu_percent
    assert busy.power_milliwatts >= idle.power_milliwatts > 1000
    assert 10 < idle.temperature_celsius < 100
    assert idle.memory_free_bytes > 2**30
    assert None not in (busy.memory_reserved_bytes, busy.energy_millijoules, busy.sm_clock_mhz, busy.memory_clock_mhz)


def test_utilisation_is_absent_while_mig_is_on(nvml, machine):
    nvml.set_mig_mode(uuid(machine, 0), enabled=True)
    assert nvml.samples()[0].utilization_gpu_percent is None
    assert nvml.samples()[1].utilization_gpu_percent is not None


def test_a_value_that_a_board_lacks_does_not_cost_the_others(nvml, machine):
    machine.fail(uuid(machine, 0), "nvmlDeviceGetPowerUsage", 3, 1000)
    first = nvml.samples()[0]
    assert first.power_milliwatts is None
    assert first.temperature_celsius is not None


# Only a worker can survive what follows.


def test_one_hanging_gpu_costs_only_itself(worker, machine):
    assert worker.gpus()[1] == ()
    machine.hang(uuid(machine, 1), "*", 600)
    gpus, faults = worker.gpus()
    assert [found.uuid for found in gpus] == [uuid(machine, 0), uuid(machine, 2)]
    assert faults[0].uuid == uuid(machine, 1)
    assert faults[0].reason.startswith("no answer within 3 s, fenced off since ")
    assert [sample.uuid for sample in worker.samples()] == [uuid(machine, 0), uuid(machine, 2)]
    assert worker.gpus()[1] == faults, "while fenced off it is not asked again"
    machine.clear_faults()
    worker.unfence()
    assert len(worker.gpus()[0]) == 3


def test_a_killed_worker_is_replaced(worker):
    worker.gpus()
    killed = worker.pid()
    os.kill(killed, signal.SIGKILL)
    gpus, faults = worker.gpus()
    assert (len(gpus), faults) == (3, ())
    assert worker.pid() != killed


def test_several_threads_may_ask_at_once(worker):
    counts = []
    calls = [worker.gpus, worker.samples] * 4
    threads = [threading.Thread(target=lambda call=call: counts.append(len(call()))) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [2, 2, 2, 2, 3, 3, 3, 3]


def test_the_worker_stays_small(worker):
    for _ in range(20):
        worker.gpus()
        worker.samples()
    status = Path(f"/proc/{worker.pid()}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kib < 40 * 1024
