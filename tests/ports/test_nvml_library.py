"""The NVML simulator library under the unmodified nvidia-ml-py: identity, memory, telemetry, faults, shared use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nodeagent.errors import BusyError, GoneError, HostError
from nodeagent.simulation.machine import BoardAt, Machine, library_path
from nvml_adapters import machine_in
from nvml_client import Client

SLOTS = (
    BoardAt("H100-80GB-HBM3", "0000:9b:00.0", 0, "test"),
    BoardAt("A100-SXM4-40GB", "0000:0a:00.0", 2, "test"),
    BoardAt("A100-PCIE-40GB", "0001:0a:00.0", 1, "test"),
)
A100, H100, A100_PCIE = 0, 1, 2  # NVML indices: by PCI address, not by minor
GIB = 2**30
NO_INSTANCE = 0xFFFFFFFF
BAD_ARGUMENT, UNSUPPORTED, DENIED, MISSING = "error 2", "error 3", "error 4", "error 6"
NOT_LOADED, TIMED_OUT, LOST = "error 9", "error 10", "error 15"


@pytest.fixture
def machine(tmp_path):
    with machine_in(tmp_path, SLOTS) as made:
        yield made


@pytest.fixture
def environment(machine):
    return {**os.environ, **machine.environment}


@pytest.fixture
def client(environment):
    with Client(environment) as opened:
        yield opened.start()


@pytest.fixture
def other(environment):
    with Client(environment) as opened:
        yield opened.start()


@pytest.fixture
def uuids(machine):
    return [gpu.uuid for gpu in machine.gpus]


def test_versions_and_count(client):
    assert client("nvmlSystemGetDriverVersion()") == "580.95.05"
    assert client("nvmlSystemGetNVMLVersion()").startswith("13.")
    assert client("nvmlSystemGetCudaDriverVersion()") == 13000
    assert client("nvmlDeviceGetCount()") == 3


def test_gpus_come_in_pci_order(client, machine):
    assert [gpu.pci_address for gpu in machine.gpus] == ["0000:0a:00.0", "0000:9b:00.0", "0001:0a:00.0"]
    assert [client(f"nvmlDeviceGetName(g{n})") for n in range(3)] == [gpu.product for gpu in machine.gpus]
    assert [client(f"nvmlDeviceGetMinorNumber(g{n})") for n in range(3)] == [2, 0, 1]
    assert [client(f"nvmlDeviceGetUUID(g{n})") for n in range(3)] == [gpu.uuid for gpu in machine.gpus]
    assert [client(f"nvmlDeviceGetPciInfo(g{n}).busId") for n in range(3)] == [
        "00000000:0A:00.0",
        "00000000:9B:00.0",
        "00000001:0A:00.0",
    ]


@pytest.mark.parametrize(
    "lookup",
    [
        "nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(g1))",
        "nvmlDeviceGetHandleBySerial(nvmlDeviceGetSerial(g1))",
        "nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(g1).busId)",
        "nvmlDeviceGetHandleByPciBusId('0000:9b:00.0')",
    ],
)
def test_a_gpu_is_found_by_each_of_its_names(client, lookup):
    assert client(f"nvmlDeviceGetIndex({lookup})") == 1


@pytest.mark.parametrize(
    ("lookup", "error"),
    [
        ("nvmlDeviceGetHandleByIndex(3)", BAD_ARGUMENT),
        ("nvmlDeviceGetHandleByUUID('GPU-0')", MISSING),
        ("nvmlDeviceGetHandleByUUID('MIG-0')", MISSING),
        ("nvmlDeviceGetHandleByPciBusId('0000:01:00.0')", MISSING),
        ("nvmlDeviceGetName(c_nvmlDevice_t.from_address(addressof(c_uint64(77))))", BAD_ARGUMENT),
        ("nvmlDeviceGetFanSpeed(g0)", UNSUPPORTED),
    ],
)
def test_what_is_not_there(client, lookup, error):
    assert client(lookup) == error


def test_uuids_follow_from_the_seed(machine, tmp_path):
    with Machine.create(str(tmp_path / "again"), SLOTS, "", "580.95.05") as again:
        assert again.gpus == machine.gpus
    other_seed = [BoardAt(slot.board, slot.pci_address, slot.minor, "else") for slot in SLOTS]
    with Machine.create(str(tmp_path / "else"), other_seed, "", "580.95.05") as different:
        assert not {gpu.uuid for gpu in different.gpus} & {gpu.uuid for gpu in machine.gpus}


def test_a_loaded_library_is_found_by_its_name(machine):
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    environment["NVMLSIM_MACHINE"] = machine.path
    with Client(environment, f"import ctypes; ctypes.CDLL({str(library_path())!r})\n") as client:
        assert client.start()("nvmlDeviceGetCount()") == 3


def test_memory_is_what_the_processes_take(client, machine, uuids):
    plain = client("(lambda m: [m.total, m.used, m.free])(nvmlDeviceGetMemoryInfo(g0))")
    assert plain[0] == 40 * GIB
    assert plain[1] + plain[2] == plain[0]
    machine.start_process(uuids[A100], 5000001, "train", 3 * GIB)
    machine.start_process(uuids[A100], 5000002, "serve", 2 * GIB)
    versioned = "(lambda m: [m.total, m.reserved, m.used, m.free])(nvmlDeviceGetMemoryInfo(g0, nvmlMemory_v2))"
    total, reserved, used, free = client(versioned)
    assert (used, reserved, free) == (5 * GIB, plain[1], total - plain[1] - 5 * GIB)
    assert client("nvmlDeviceGetMemoryInfo(g0).used") == plain[1] + 5 * GIB
    assert client("nvmlDeviceGetMemoryInfo(g1, nvmlMemory_v2).used") == 0
    assert client("nvmlDeviceGetBAR1MemoryInfo(g0).bar1Total") == 64 * GIB
    with pytest.raises(BusyError):
        machine.start_process(uuids[A100], 5000003, "greedy", 36 * GIB)


def test_processes_are_listed_until_they_end(client, machine, uuids):
    listing = "[(p.pid, p.usedGpuMemory, p.gpuInstanceId) for p in nvmlDeviceGetComputeRunningProcesses(g0)]"
    assert client(listing) == []
    machine.start_process(uuids[A100], 5000001, "train", GIB)
    assert client(listing) == [[5000001, GIB, NO_INSTANCE]]
    assert client(listing.replace("Processes(", "Processes_v2(")) == [[5000001, GIB, NO_INSTANCE]]
    assert client("nvmlSystemGetProcessName(5000001)") == "train"
    assert client("nvmlDeviceGetGraphicsRunningProcesses(g0)") == []
    machine.end_process(5000001)
    machine.end_process(5000001)
    assert client(listing) == []
    assert client("nvmlSystemGetProcessName(5000001)") == MISSING


def test_a_process_that_dies_is_forgotten(client, machine, environment, uuids):
    with Client(environment) as work:
        machine.start_process(uuids[A100], work.process.pid, "train", GIB)
        assert client("len(nvmlDeviceGetComputeRunningProcesses(g0))") == 1
    assert client("len(nvmlDeviceGetComputeRunningProcesses(g0))") == 0


@pytest.mark.parametrize("board", [(A100, 55000, 400000), (H100, 70000, 700000)], ids=["A100", "H100"])
def test_telemetry_follows_the_load(client, machine, uuids, board):
    index, idle_mw, max_mw = board
    assert client(f"nvmlDeviceGetUtilizationRates(g{index}).gpu") == 0
    assert client(f"nvmlDeviceGetPowerUsage(g{index})") == idle_mw
    idle_clock = client(f"nvmlDeviceGetClockInfo(g{index}, NVML_CLOCK_SM)")
    energy = client(f"nvmlDeviceGetTotalEnergyConsumption(g{index})")
    machine.set_load(uuids[index], 80)
    assert 76 <= client(f"nvmlDeviceGetUtilizationRates(g{index}).gpu") <= 84
    readings = [client(f"nvmlDeviceGetPowerUsage(g{index})") for _ in range(200)]
    assert readings == sorted(readings)  # it rises to its new value and does not jump
    assert idle_mw <= readings[0] < readings[-1] <= max_mw
    assert 30 <= client(f"nvmlDeviceGetTemperature(g{index}, NVML_TEMPERATURE_GPU)") <= 70
    assert client(f"nvmlDeviceGetTotalEnergyConsumption(g{index})") > energy
    clock = client(f"nvmlDeviceGetClockInfo(g{index}, NVML_CLOCK_SM)")
    assert idle_clock < clock == client(f"nvmlDeviceGetMaxClockInfo(g{index}, NVML_CLOCK_SM)")
    assert client(f"nvmlDeviceGetPerformanceState(g{index})") == 0


@pytest.mark.parametrize(
    ("number", "a100", "h100"),
    [(184, 0, 1), (199, 1, 1), (142, 0, 0), (143, 0, 0), (144, 0, 0), (145, 0, 0), (189, 400000, 700000), (91, 12, 18)],
)
def test_field_values(client, number, a100, h100):
    assert [client(f"field(g{n}, {number})") for n in (A100, H100)] == [a100, h100]


def test_field_values_fail_one_by_one(client):
    values = client("[(v.fieldId, v.nvmlReturn) for v in nvmlDeviceGetFieldValues(g0, [82, 83, 185, 60])]")
    assert values == [[82, 0], [83, 0], [185, 3], [60, 3]]
    assert client("field(g0, 83) >= nvmlDeviceGetTotalEnergyConsumption(g0) - 1000") is True
    assert client("field(g0, 308)") == 30.0


def test_counters_are_the_controllers(client, machine, uuids):
    machine.set_counter(uuids[A100], "remapped_correctable", 3)
    machine.set_counter(uuids[A100], "ecc_uncorrected", 2)
    assert client("list(nvmlDeviceGetRemappedRows(g0))") == [3, 0, 0, 0]
    assert client("field(g0, 142)") == 3
    assert client("nvmlDeviceGetTotalEccErrors(g0, 1, 0)") == 2
    assert client("nvmlDeviceGetEccMode(g0)") == [1, 1]


def test_limits_are_checked(client):
    assert client("nvmlDeviceGetPowerManagementLimitConstraints(g0)") == [100000, 400000]
    assert client("nvmlDeviceSetPowerManagementLimit(g0, 300000)") is None
    assert client("nvmlDeviceGetEnforcedPowerLimit(g0)") == 300000
    assert client("nvmlDeviceSetPowerManagementLimit(g0, 500000)") == BAD_ARGUMENT
    assert client("nvmlDeviceSetPersistenceMode(g0, 1)") is None
    assert client("nvmlDeviceGetPersistenceMode(g0)") == 1
    assert client("nvmlDeviceGetTemperatureThreshold(g0, NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)") == 92


def open_files(client: Client) -> set[str]:
    folder = f"/proc/{client.process.pid}/fd"
    return {os.path.basename(os.readlink(f"{folder}/{fd}")) for fd in os.listdir(folder)}


def test_a_session_is_visible_in_proc(environment):
    with Client(environment) as client:
        assert not {"nvidiactl", "nvidia2"} & open_files(client)
        assert client("nvmlInit()") is None
        assert client("nvmlInit()") is None
        assert open_files(client) >= {"nvidiactl"}
        assert client("g0 = nvmlDeviceGetHandleByIndex(0)") is None
        assert open_files(client) & {"nvidia0", "nvidia1", "nvidia2"} == {"nvidia2"}
        client("nvmlShutdown()")
        assert "nvidia2" in open_files(client)
        client("nvmlShutdown()")
        assert not {"nvidiactl", "nvidia2"} & open_files(client)
        assert client("nvmlShutdown()") == "error 1"
        assert client("nvmlDeviceGetName(g0)") == "error 1"


def test_without_a_driver_there_is_no_session(machine, environment, client):
    machine.set_driver_loaded(False)
    assert machine.driver_loaded is False
    with Client(environment) as late:
        assert late("nvmlInit()") == NOT_LOADED
    assert client("nvmlDeviceGetName(g0)") == LOST
    assert client("nvmlSystemGetDriverVersion()") == "error 1"
    machine.set_driver_loaded(True)
    assert client("nvmlDeviceGetName(g0)") == LOST  # the old session stays dead
    client("nvmlShutdown()")
    assert client.start()("nvmlDeviceGetCount()") == 3


def test_without_a_machine_there_is_no_driver(environment, tmp_path):
    with Client({**environment, "NVMLSIM_MACHINE": str(tmp_path / "nothing")}) as client:
        assert client("nvmlInit()") == NOT_LOADED


def test_faults_count_down(machine, uuids, client, other):
    machine.fail(uuids[A100], "nvmlDeviceGetPowerUsage", 15, 2)
    assert client("nvmlDeviceGetPowerUsage(g0)") == LOST
    assert client("nvmlDeviceGetPowerUsage(g1)") == 70000
    assert other("nvmlDeviceGetPowerUsage(g0)") == LOST
    assert client("nvmlDeviceGetPowerUsage(g0)") == 55000


def test_a_fault_meets_every_version_of_a_function(machine, uuids, client):
    machine.fail(uuids[A100], "nvmlDeviceGetComputeRunningProcesses", 999)
    machine.fail(None, "nvmlDeviceGetHandleByIndex_v2", 17, 1)
    assert client("nvmlDeviceGetComputeRunningProcesses_v2(g0)") == "error 999"
    assert client("nvmlDeviceGetComputeRunningProcesses_v3(g0)") == "error 999"
    assert client("nvmlDeviceGetHandleByIndex(0)") == "error 17"
    machine.clear_faults()
    assert client("nvmlDeviceGetComputeRunningProcesses(g0)") == []


def test_a_fault_on_any_function_of_one_gpu(machine, uuids, client):
    machine.fail(uuids[H100], "*", 999)
    assert client("nvmlDeviceGetName(g1)") == "error 999"
    assert client("nvmlDeviceGetHandleByIndex(1)") == "error 999"
    assert client("nvmlDeviceGetName(g0)") == "NVIDIA A100-SXM4-40GB"


def test_init_can_fail(machine, environment):
    machine.fail(None, "nvmlInit_v2", 18, 1)
    with Client(environment) as client:
        assert client("nvmlInit()") == "error 18"
        assert client("nvmlInit()") is None


def test_a_lost_gpu_is_lost_for_getters_and_lookups(machine, uuids, client):
    machine.lose(uuids[A100])
    assert client("nvmlDeviceGetCount()") == 3
    for call in (
        "nvmlDeviceGetTemperature(g0, 0)",
        "nvmlDeviceGetMigMode(g0)",
        "nvmlDeviceGetHandleByIndex(0)",
        f"nvmlDeviceGetHandleByUUID('{uuids[A100]}')",
    ):
        assert client(call) == LOST
    assert client("nvmlDeviceGetName(g1)") == "NVIDIA H100 80GB HBM3"
    machine.lose(uuids[A100], lost=False)
    assert client("nvmlDeviceGetIndex(g0)") == 0


def test_a_call_that_hangs_holds_up_nobody_else(machine, uuids, client, other):
    machine.hang(uuids[A100], "nvmlDeviceGetPowerUsage", 3600)
    client.send("nvmlDeviceGetPowerUsage(g0)")
    assert other("nvmlDeviceGetTemperature(g0, 0)") == 30
    assert other("nvmlDeviceGetPowerUsage(g1)") == 70000
    client.kill()
    machine.clear_faults()
    assert other("nvmlDeviceGetPowerUsage(g0)") == 55000


def test_events_arrive_and_waiting_ends(machine, uuids, client, other):
    client("events = nvmlEventSetCreate()")
    assert client("nvmlDeviceRegisterEvents(g0, nvmlEventTypeXidCriticalError, events)") is None
    assert client("nvmlEventSetWait(events, 0)") == TIMED_OUT
    assert client("nvmlEventSetWait_v2(events, 50)") == TIMED_OUT
    client.send("(lambda e: [e.eventType, e.eventData])(nvmlEventSetWait_v2(events, 60000))")
    machine.xid(uuids[H100], 31)  # nobody asked for this one
    machine.xid(uuids[A100], 63)
    assert client.receive() == [8, 63]
    machine.lose(uuids[A100])
    assert client("nvmlEventSetWait_v2(events, 60000).eventData") == 79


def test_the_controller_names_what_is_wrong(machine, tmp_path):
    with pytest.raises(GoneError, match="find GPU GPU-0"):
        machine.set_load("GPU-0", 10)
    with pytest.raises(HostError, match="set load"):
        machine.set_load(machine.gpus[0].uuid, 101)
    with pytest.raises(GoneError, match=r"board V100.*A100-SXM4-40GB"):
        Machine.create(str(tmp_path / "bad"), [BoardAt("V100", "0000:01:00.0", 0)], "", "580.95.05")
    assert not list(tmp_path.glob("bad*"))
    (tmp_path / "nonsense").write_bytes(b"x" * 100)
    with pytest.raises(HostError, match="open"):
        Machine.open(str(tmp_path / "nonsense"))
    with pytest.raises(GoneError):
        Machine.open(str(tmp_path / "nothing"))


def test_several_controllers_share_a_machine(machine, uuids, client):
    with Machine.open(machine.path) as again:
        again.start_process(uuids[A100], 5000001, "train", GIB)
    machine.end_process(5000001)
    assert client("nvmlDeviceGetComputeRunningProcesses(g0)") == []


MUTEX_AT = 16  # behind magic and size, see struct machine
DIE_WITH_THE_LOCK = """
import ctypes, mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(file, 0)
mutex = ctypes.byref(ctypes.c_char.from_buffer(area), int(sys.argv[2]))
assert ctypes.CDLL(None).pthread_mutex_lock(mutex) == 0
os._exit(0)
"""


def test_who_dies_with_the_lock_leaves_it_to_the_next(machine, client):
    arguments = [sys.executable, "-c", DIE_WITH_THE_LOCK, machine.path, str(MUTEX_AT)]
    for _ in range(3):
        subprocess.run(arguments, check=True)
        assert client("nvmlDeviceGetIndex(g1)") == 1
        assert len(machine.gpus) == 3
