"""The MIG life cycle of the NVML simulator library under the unmodified nvidia-ml-py: modes, instances, crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from nodeagent.simulation.machine import BoardAt
from nodeagent.state.gpu import Placement
from nvml_adapters import machine_in
from nvml_client import Client

SLOTS = (
    BoardAt("A100-SXM4-40GB", "0000:0a:00.0", 2, "mig"),
    BoardAt("A100-SXM4-40GB", "0000:0b:00.0", 1, "mig"),
    BoardAt("H100-80GB HBM3", "0000:9b:00.0", 0, "mig"),
)
A100, H100 = 0, 2
GIB = 2**30
BAD_ARGUMENT, UNSUPPORTED, DENIED, MISSING = "error 2", "error 3", "error 4", "error 6"
IN_USE, NO_ROOM = "error 19", "error 23"
ACTIVE, HELD = 0, 19  # activationStatus
A100_NAMES = ["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb", "1g.5gb+me", "1g.10gb"]
H100_NAMES = ["1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb", "1g.10gb+me", "1g.20gb"]
EIGHTHS = [[start, 1] for start in range(7)]


@pytest.fixture
def machine(tmp_path):
    with machine_in(tmp_path, SLOTS) as made:
        yield made


@pytest.fixture
def devices(machine, tmp_path):
    return tmp_path / "dev"


@pytest.fixture
def environment(machine):
    return {**os.environ, **machine.environment}


@pytest.fixture
def client(environment):
    with Client(environment) as opened:
        yield opened.start()


@pytest.fixture
def uuids(machine):
    return [gpu.uuid for gpu in machine.gpus]


@contextmanager
def holding(path):
    """Another program with a device file open."""
    script = "import sys; held = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.stdin.close()


@pytest.mark.parametrize(("index", "names"), [(A100, A100_NAMES), (H100, H100_NAMES)])
def test_profiles_can_be_listed_with_mig_off(client, index, names):
    assert client(f"nvmlDeviceGetMigMode(g{index})") == [0, 0]
    assert client(f"[p.name for p in profiles(g{index}).values()]") == [f"MIG {name}" for name in names]
    assert client(f"[p.id for p in profiles(g{index}).values()]") == [19, 14, 9, 5, 0, 20, 15]
    assert client(f"[p.instanceCount for p in profiles(g{index}).values()]") == [7, 3, 2, 1, 1, 1, 4]
    assert client(f"placements(g{index}, 19)") == EIGHTHS
    assert client(f"placements(g{index}, 9)") == [[0, 4], [4, 4]]
    assert client(f"placements(g{index}, 0)") == [[0, 8]]


def test_a_hole_among_the_profiles_is_not_their_end(client):
    assert client("nvmlDeviceGetGpuInstanceProfileInfo(g0, 5).id") == UNSUPPORTED
    assert client("nvmlDeviceGetGpuInstanceProfileInfo(g0, 7).id") == 20
    assert client("nvmlDeviceGetGpuInstanceProfileInfo(g0, 18).id") == BAD_ARGUMENT
    assert client("nvmlDeviceGetGpuInstanceProfileInfo(g0, 2, version=1).memorySizeMB") == 19968
    assert client("nvmlDeviceGetGpuInstanceProfileInfoById(g0, 9).name") == "MIG 3g.20gb"


@pytest.mark.parametrize(
    "board",
    [(A100, 42, 19968, "A100-SXM4-40GB MIG 3g.20gb"), (H100, 60, 40448, "H100 80GB HBM3 MIG 3g.40gb")],
    ids=["A100", "H100"],
)
def test_the_whole_life_of_an_instance(client, machine, uuids, board):
    index, sm, mib, name = board
    gpu = f"g{index}"
    assert client(f"nvmlDeviceSetMigMode({gpu}, 1)") == ACTIVE
    assert client(f"nvmlDeviceGetMigMode({gpu})") == [1, 1]
    client(f"gi = nvmlDeviceCreateGpuInstanceWithPlacement({gpu}, 9, at(4, 4))")
    assert client("place(gi)") == [2, 9, 4, 4]  # instance id, profile id, placement: three number spaces
    client("ci = nvmlGpuInstanceCreateComputeInstance(gi, 2)")
    client("device = nvmlComputeInstanceGetInfo(ci).device")
    (row,) = machine.mig_layout(uuids[index]).rows
    assert (row.placement, row.ci_placement, row.gi_id, row.ci_id) == (Placement(4, 4), Placement(0, 3), 2, 0)
    assert client("nvmlDeviceGetUUID(device)") == row.uuid
    assert client("nvmlDeviceGetName(device)") == f"NVIDIA {name}"
    assert client("nvmlDeviceIsMigDeviceHandle(device).value") == 1
    assert client(f"nvmlDeviceIsMigDeviceHandle({gpu}).value") == 0
    assert client("[nvmlDeviceGetGpuInstanceId(device), nvmlDeviceGetComputeInstanceId(device)]") == [2, 0]
    attributes = (
        "(lambda a: [a.multiprocessorCount, a.gpuInstanceSliceCount, a.computeInstanceSliceCount, a.memorySizeMB])"
    )
    assert client(f"{attributes}(nvmlDeviceGetAttributes(device))") == [sm, 3, 3, mib]
    assert client("nvmlDeviceGetMemoryInfo(device).total") == mib * 2**20
    assert client(f"nvmlDeviceGetUUID(nvmlDeviceGetHandleByUUID('{row.uuid}'))") == row.uuid
    assert client("nvmlDeviceGetIndex(nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device))") == index
    assert client("nvmlDeviceGetTemperature(device, 0)") == UNSUPPORTED
    assert client("nvmlGpuInstanceDestroy(gi)") == IN_USE  # a compute instance is left
    assert client("nvmlComputeInstanceDestroy(ci)") == 0
    assert client("nvmlComputeInstanceDestroy(ci)") == BAD_ARGUMENT
    assert client("nvmlGpuInstanceDestroy(gi)") == 0
    assert machine.mig_layout(uuids[index]).rows == ()
    assert client(f"nvmlDeviceSetMigMode({gpu}, 0)") == ACTIVE
    assert client(f"nvmlDeviceGetMigMode({gpu})") == [0, 0]


def create_all(client, gpu, ids):
    assert client(f"nvmlDeviceSetMigMode({gpu}, 1)") == ACTIVE
    return [client(f"place(nvmlDeviceCreateGpuInstance({gpu}, {number}))") for number in ids]


def test_the_drivers_own_placement_depends_on_the_order(client):
    """The case that the MIG User Guide documents: one order of 19,19,14,9 fits, another does not."""
    assert create_all(client, "g0", (19, 19, 14, 9))[3] == NO_ROOM
    assert all(isinstance(made, list) for made in create_all(client, "g1", (9, 19, 14, 19)))


def test_compute_slices_are_seven(client):
    create_all(client, "g0", (9, 9))
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 19)") == 0
    assert client("nvmlDeviceCreateGpuInstance(g0, 19)") == NO_ROOM
    create_all(client, "g1", (19,) * 7)
    assert client("nvmlDeviceCreateGpuInstance(g1, 19)") == NO_ROOM
    assert client("nvmlDeviceCreateGpuInstance(g1, 15)") == NO_ROOM


def test_a_profile_has_a_count_of_its_own(client):
    assert create_all(client, "g0", (20, 20))[1] == NO_ROOM
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 20)") == 0
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 19)") == 6
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 9)") == 1


def test_placements_are_checked(client):
    client("nvmlDeviceSetMigMode(g0, 1)")
    assert client("nvmlDeviceCreateGpuInstanceWithPlacement(g0, 9, at(2, 4))") == BAD_ARGUMENT
    assert client("nvmlDeviceCreateGpuInstanceWithPlacement(g0, 19, at(7, 1))") == BAD_ARGUMENT
    client("gi = nvmlDeviceCreateGpuInstanceWithPlacement(g0, 19, at(5, 1))")
    assert client("nvmlDeviceCreateGpuInstanceWithPlacement(g0, 9, at(4, 4))") == NO_ROOM
    assert client("place(nvmlDeviceCreateGpuInstanceWithPlacement(g0, 9, at(0, 4)))") == [1, 9, 0, 4]
    assert client("[place(one)[0] for one in instances(g0, 9)]") == [1]
    assert client("place(nvmlDeviceGetGpuInstanceById(g0, 12))") == [12, 19, 5, 1]
    assert client("nvmlDeviceGetGpuInstanceById(g0, 3)") == MISSING
    assert client("nvmlDeviceCreateGpuInstance(g0, 77)") == BAD_ARGUMENT


def test_instances_need_the_mode(client):
    assert client("nvmlDeviceCreateGpuInstance(g0, 19)") == UNSUPPORTED
    assert client("instances(g0, 19)") == UNSUPPORTED
    assert client("nvmlDeviceGetGpuInstanceById(g0, 0)") == UNSUPPORTED
    assert client("nvmlDeviceGetMaxMigDeviceCount(g0)") == 0
    assert client("nvmlDeviceGetMigDeviceHandleByIndex(g0, 0)") == MISSING
    client("nvmlDeviceSetMigMode(g0, 1)")
    assert client("nvmlDeviceGetMaxMigDeviceCount(g0)") == 7
    assert client("nvmlDeviceGetUtilizationRates(g0)") == UNSUPPORTED
    assert client("nvmlDeviceGetUtilizationRates(g1).gpu") == 0


CI_WIDTHS = {
    9: ([0, 1, 2], [3, 1, 1]),
    5: ([0, 1, 3], [4, 2, 1]),
    0: ([0, 1, 2, 3, 4], [7, 3, 2, 1, 1]),
    15: ([0, 7], [1, 1]),
}


@pytest.mark.parametrize("number", CI_WIDTHS)
def test_compute_instance_profiles(client, number):
    create_all(client, "g2", ())
    client(f"gi = nvmlDeviceCreateGpuInstance(g2, {number})")
    found = [client(f"nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, {n}, 0).instanceCount") for n in range(9)]
    offered, counts = CI_WIDTHS[number]
    assert [n for n in range(9) if found[n] != UNSUPPORTED] == offered
    assert [found[n] for n in offered] == counts
    assert client("nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, 9, 0).id") == BAD_ARGUMENT
    assert client("nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, 0, 1).id") == BAD_ARGUMENT


def test_only_the_wide_compute_instance_fills_a_double_memory_instance(client):
    create_all(client, "g2", ())
    client("gi = nvmlDeviceCreateGpuInstance(g2, 15)")
    multiprocessors = "nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, {}, 0).multiprocessorCount"
    assert [client(multiprocessors.format(n)) for n in (0, 7)] == [16, 26]


def test_compute_instances_share_a_gpu_instance(client, machine, uuids):
    create_all(client, "g0", ())
    client("gi = nvmlDeviceCreateGpuInstance(g0, 9)")
    client("first = nvmlGpuInstanceCreateComputeInstance(gi, 0)")
    client("second = nvmlGpuInstanceCreateComputeInstance(gi, 0)")
    assert client("nvmlGpuInstanceCreateComputeInstance(gi, 1)") == NO_ROOM
    assert client("nvmlDeviceGetName(nvmlComputeInstanceGetInfo(second).device)").endswith(" MIG 1c.3g.20gb")
    assert client("nvmlGpuInstanceGetComputeInstanceRemainingCapacity(gi, 0)") == 1
    assert [row.mig_index for row in machine.mig_layout(uuids[A100]).rows] == [0, 1]


def test_orphans_holes_and_reused_handles(client, machine, uuids):
    create_all(client, "g0", ())
    for n in range(3):
        client(f"gi{n} = nvmlDeviceCreateGpuInstanceWithPlacement(g0, 19, at({n}, 1))")
        client(f"ci{n} = nvmlGpuInstanceCreateComputeInstance(gi{n}, 0)")
        client(f"device{n} = nvmlComputeInstanceGetInfo(ci{n}).device")
    before = client("[nvmlDeviceGetUUID(d) for d in (device0, device1, device2)]")
    client("nvmlComputeInstanceDestroy(ci1)")
    assert [(row.gi_id, row.ci_id) for row in machine.mig_layout(uuids[A100]).rows] == [(7, 0), (8, None), (9, 0)]
    assert client("nvmlDeviceGetMigDeviceHandleByIndex(g0, 1)") == MISSING
    assert client("nvmlDeviceGetUUID(nvmlDeviceGetMigDeviceHandleByIndex(g0, 2))") == before[2]
    assert client("nvmlDeviceGetUUID(device1)") == BAD_ARGUMENT
    client("nvmlGpuInstanceCreateComputeInstance(gi1, 0)")
    assert client("nvmlDeviceGetUUID(device1)") not in before  # the old handle now names the new instance
    client("nvmlDeviceSetMigMode(g0, 0)")
    client("nvmlDeviceSetMigMode(g0, 1)")
    client("nvmlDeviceCreateGpuInstanceWithPlacement(g0, 19, at(0, 1))")
    assert client("place(gi0)") == BAD_ARGUMENT  # handles of before the reset are dead


def test_root_is_required(client, machine):
    machine.set_unprivileged(True)
    assert client("nvmlDeviceSetMigMode(g0, 1)") == DENIED
    assert client("placements(g0, 19)") == DENIED
    assert client("nvmlDeviceGetMigMode(g0)") == [0, 0]
    machine.set_unprivileged(False)
    client("nvmlDeviceSetMigMode(g0, 1)")
    machine.set_unprivileged(True)
    assert client("nvmlDeviceCreateGpuInstance(g0, 19)") == DENIED
    assert client("instances(g0, 19)") == DENIED


def test_a_reset_needs_the_gpu_to_itself(client, machine, uuids, environment, devices):
    """Another session, a foreign program with the device open, a workload: each keeps the new mode pending."""
    with Client(environment) as other:
        other("nvmlInit()")
        other("nvmlDeviceGetHandleByIndex(1)")
        assert client("nvmlDeviceSetMigMode(g0, 1)") == ACTIVE  # the other one holds another GPU
        other("nvmlDeviceGetHandleByIndex(0)")
        assert client("nvmlDeviceSetMigMode(g0, 0)") == HELD
        assert client("nvmlDeviceGetMigMode(g0)") == [1, 0]
        other("nvmlShutdown()")
        assert client("nvmlDeviceSetMigMode(g0, 0)") == ACTIVE
    with holding(devices / "nvidia2"):
        assert client("nvmlDeviceSetMigMode(g0, 1)") == HELD
    machine.start_process(uuids[A100], 5000001, "train", GIB)
    assert client("nvmlDeviceSetMigMode(g0, 1)") == HELD
    assert client("nvmlDeviceGetMigMode(g0)") == [0, 1]
    assert client("nvmlDeviceSetMigMode(g0, 0)") == ACTIVE  # back to what it is: nothing is pending
    assert client("nvmlDeviceGetMigMode(g0)") == [0, 0]
    machine.end_process(5000001)
    assert client("nvmlDeviceSetMigMode(g0, 1)") == ACTIVE


def test_a_resetless_board_minds_workloads_only(client, machine, uuids, environment, devices):
    with Client(environment) as other, holding(devices / "nvidia0"):
        other.start()
        assert client("nvmlDeviceSetMigMode(g2, 1)") == ACTIVE
    machine.start_process(uuids[H100], 5000001, "train", GIB)
    assert client("nvmlDeviceSetMigMode(g2, 0)") == HELD
    assert client("nvmlDeviceGetMigMode(g2)") == [1, 1]


@pytest.mark.parametrize("index", [A100, H100])
def test_a_busy_instance_stays(client, machine, uuids, index):
    create_all(client, f"g{index}", ())
    client(f"gi = nvmlDeviceCreateGpuInstance(g{index}, 14)")
    client("ci = nvmlGpuInstanceCreateComputeInstance(gi, 1)")
    client("device = nvmlComputeInstanceGetInfo(ci).device")
    (row,) = machine.mig_layout(uuids[index]).rows
    machine.start_process(uuids[index], 5000001, "serve", GIB, mig_uuid=row.uuid)
    listing = "[(p.pid, p.gpuInstanceId, p.computeInstanceId) for p in nvmlDeviceGetComputeRunningProcesses({})]"
    assert client(listing.format("device")) == [[5000001, row.gi_id, row.ci_id]]
    assert client(listing.format(f"g{index}")) == [[5000001, row.gi_id, row.ci_id]]
    assert client("nvmlDeviceGetMemoryInfo(device).used") > GIB
    assert client("nvmlComputeInstanceDestroy(ci)") == IN_USE
    assert client(f"nvmlDeviceSetMigMode(g{index}, 0)") == HELD
    assert machine.mig_layout(uuids[index]).rows == (row,)
    machine.end_process(5000001)
    assert client("nvmlComputeInstanceDestroy(ci)") == 0


def test_a_workload_on_the_whole_gpu_blocks_the_first_partition(client, machine, uuids):
    create_all(client, "g0", ())
    machine.start_process(uuids[A100], 5000001, "profiler", GIB)
    assert client("nvmlDeviceCreateGpuInstance(g0, 19)") == IN_USE
    machine.end_process(5000001)
    assert client("place(nvmlDeviceCreateGpuInstance(g0, 19))")[1] == 19


def test_what_a_driver_reload_keeps(client, machine, uuids):
    create_all(client, "g0", (19,))
    create_all(client, "g2", (19,))
    machine.set_driver_loaded(False)
    machine.set_driver_loaded(True)
    layouts = [machine.mig_layout(uuids[n]) for n in (A100, H100)]
    assert [(one.enabled, one.pending, one.rows) for one in layouts] == [(True, True, ()), (False, False, ())]


def test_a_pending_mode_comes_with_the_next_load_or_reset(client, machine, uuids, devices):
    with holding(devices / "nvidia2"), holding(devices / "nvidia1"):
        assert client("nvmlDeviceSetMigMode(g0, 1)") == HELD
        assert client("nvmlDeviceSetMigMode(g1, 1)") == HELD
    client("nvmlShutdown()")
    machine.reset(uuids[1])
    assert [machine.mig_layout(uuids[n]).enabled for n in (0, 1)] == [False, True]
    machine.set_driver_loaded(False)
    machine.set_driver_loaded(True)
    assert machine.mig_layout(uuids[0]).enabled is True


def test_processes_see_each_others_instances(client, environment):
    with Client(environment) as other:
        other.start()
        assert client("nvmlDeviceSetMigMode(g2, 1)") == ACTIVE
        client("nvmlDeviceCreateGpuInstanceWithPlacement(g2, 9, at(0, 4))")
        assert other("nvmlDeviceGetMigMode(g2)") == [1, 1]
        assert other("[place(one) for one in instances(g2, 9)]") == [[1, 9, 0, 4]]
        other("nvmlGpuInstanceDestroy(instances(g2, 9)[0])")
        assert client("instances(g2, 9)") == []


def test_a_configuration_change_is_an_event(client):
    create_all(client, "g0", ())
    client("events = nvmlEventSetCreate()")
    assert client("nvmlDeviceRegisterEvents(g0, 0x100, events)") is None
    client("gi = nvmlDeviceCreateGpuInstance(g0, 19)")
    assert client("nvmlEventSetWait_v2(events, 60000).eventType") == 0x100


CHURN = """
import itertools
nvmlInit()
g2 = nvmlDeviceGetHandleByIndex(2)
for number in itertools.count():
    try:
        gi = nvmlDeviceCreateGpuInstance(g2, (19, 14, 9)[number % 3])
        ci = nvmlGpuInstanceCreateComputeInstance(gi, 0)
        nvmlComputeInstanceDestroy(ci)
        nvmlGpuInstanceDestroy(gi)
    except NVMLError as error:
        if error.value != NVML_ERROR_INSUFFICIENT_RESOURCES:
            raise
        break
    if number == 20:
        print("busy", flush=True)
"""
IMPORTS = "from pynvml import *\n"


@pytest.mark.parametrize("victim", range(10))
def test_a_killed_client_leaves_a_whole_machine(client, machine, uuids, environment, victim):
    """SIGKILL amid creating and destroying: others go on, and the layout is one that NVML could have made."""
    client("nvmlDeviceSetMigMode(g2, 1)")
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTS + CHURN], env=environment, stdout=subprocess.PIPE, text=True
    ) as churn:
        assert churn.stdout.readline() == "busy\n"
        for _ in range(victim * 7):
            client("nvmlDeviceGetMigMode(g2)")  # kill it at another moment each time
        churn.send_signal(signal.SIGKILL)
    for row in machine.mig_layout(uuids[H100]).rows:
        assert [row.placement.start, row.placement.size] in client(f"placements(g2, {row.profile_id})")
    assert len(machine.mig_layout(uuids[H100]).rows) <= 1
    client("[nvmlComputeInstanceDestroy(nvmlGpuInstanceGetComputeInstanceById(g, 0)) for g in instances(g2, 19)]")
    assert client("nvmlDeviceSetMigMode(g2, 0)") == ACTIVE
    assert machine.mig_layout(uuids[H100]).rows == ()


def test_a_killed_client_lets_go_of_its_gpus(client, environment):
    with Client(environment) as other:
        other.start()
        assert client("nvmlDeviceSetMigMode(g0, 1)") == HELD
    assert client("nvmlDeviceSetMigMode(g0, 1)") == ACTIVE
