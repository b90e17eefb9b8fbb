"""Trials on GPUs against the project's own libcuda: what works, and each way in which it does not."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, DeadlineError, GoneError, HostError, UnsupportedError
from nodeagent.host.cuda import CudaLaunch, CudaProcesses
from nodeagent.host.cuda_driver import CudaCallError, CudaDriver
from nodeagent.host.cuda_works import WrongDataError, only
from nodeagent.simulation.cuda import stub_path
from nodeagent.state.proofs import Trial, TrialResult, Work

ONE = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-aaaaaaaa-2222-3333-4444-555555555555"
MIG = "MIG-cccccccc-2222-3333-4444-555555555555"
SECONDS = 60.0


@dataclass
class Bench:
    """Two GPUs and a MIG device; `faults` as in native/cuda/faults.c."""

    faults: str = ""
    memory_bytes: int = 1 << 30
    environment: dict[str, str] = field(default_factory=dict)
    library: str = ""

    def launch(self) -> CudaLaunch:
        listed = ";".join(f"{uuid}|Tester 9000|{self.memory_bytes}" for uuid in (ONE, OTHER, MIG))
        environment = {"NODEAGENT_CUDA_DEVICES": listed, "NODEAGENT_CUDA_FAULTS": self.faults}
        return CudaLaunch(self.library or str(stub_path()), environment | self.environment)

    def attempt(self, work: Work, *uuids: str, seconds: float = SECONDS) -> TrialResult:
        return CudaProcesses(self.launch).attempt(Trial(work, uuids), seconds)


@pytest.mark.parametrize("uuid", [ONE, OTHER, MIG])
def test_vector_addition_and_memory_of_one_device(uuid: str) -> None:
    result = Bench().attempt(Work.VECTOR, uuid)
    assert result.simulated
    assert result.facts["product"] == "Tester 9000"
    assert result.figures["memory_total_bytes"] == 1 << 30
    assert all(value > 0 for value in result.figures.values())


def test_a_copy_between_gpus_takes_the_direct_route_where_there_is_one() -> None:
    assert Bench().attempt(Work.PEER, ONE, OTHER).facts == {"route": "direct"}
    assert Bench("access=wrong").attempt(Work.PEER, ONE, OTHER).facts == {"route": "host"}


REFUSALS = {
    "cuInit=100": (GoneError, "CUDA sees no device"),
    "cuInit=803": (UnsupportedError, "different versions"),
    "cuInit=802": (BusyError, "nvidia-fabricmanager"),
    "cuInit=999": (HostError, "nvidia_uvm"),
    "cuMemAlloc_v2=2": (BusyError, "its memory is full"),
    "cuDevicePrimaryCtxRetain=46": (BusyError, "exclusively"),
    "cuModuleLoadData=221": (UnsupportedError, "libnvidia-ptxjitcompiler"),
    "cuLaunchKernel=719": (HostError, "the kernel failed"),
    "cuCtxSynchronize=214": (HostError, "ECC"),
    "cuCtxSynchronize=4242": (HostError, "code 4242"),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_what_the_driver_refuses_is_told_with_its_own_name_and_advice(fault: str) -> None:
    kind, words = REFUSALS[fault]
    with pytest.raises(kind, match=words) as told:
        Bench(fault).attempt(Work.VECTOR, ONE)
    assert type(told.value) is kind
    assert fault.partition("=")[0] in str(told.value)
    assert ONE in str(told.value)


@pytest.mark.parametrize(("fault", "what"), [("add=wrong", r"sums: \d of"), ("copy=wrong", "memory: 1 of")])
def test_wrong_bytes_are_noticed(fault: str, what: str) -> None:
    with pytest.raises(HostError, match=what) as told:
        Bench(fault).attempt(Work.VECTOR, ONE)
    assert "out of service" in told.value.advice


def test_wrong_bytes_of_a_copy_between_gpus_are_noticed() -> None:
    with pytest.raises(HostError, match="copy: 1 of"):
        Bench("peer=wrong").attempt(Work.PEER, ONE, OTHER)


@pytest.mark.parametrize("call", ["cuInit", "cuMemAlloc_v2", "cuCtxSynchronize"])
def test_a_hang_ends_at_the_deadline_and_leaves_no_process(call: str) -> None:
    with pytest.raises(DeadlineError, match=r"no answer in 1.5 seconds"):
        Bench(f"{call}=hang").attempt(Work.VECTOR, ONE, seconds=1.5)
    assert not children()


def children() -> list[str]:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in own if b"cuda_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_fault_of_one_gpu_is_no_other_ones() -> None:
    bench = Bench(f"cuMemAlloc_v2=2@{ONE}")
    assert bench.attempt(Work.VECTOR, OTHER).simulated
    with pytest.raises(BusyError):
        bench.attempt(Work.VECTOR, ONE)


def test_memory_that_does_not_suffice() -> None:
    with pytest.raises(BusyError, match="memory is full"):
        Bench(memory_bytes=16 << 20).attempt(Work.VECTOR, ONE)


def test_a_device_that_is_not_there_and_a_library_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GoneError, match="CUDA_ERROR_NO_DEVICE"):
        Bench().attempt(Work.VECTOR, "GPU-99999999-2222-3333-4444-555555555555")
    with pytest.raises(GoneError, match="cannot be loaded"):
        Bench(library=str(tmp_path / "libcuda.so.1")).attempt(Work.VECTOR, ONE)


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    source = tmp_path / "abort.c"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void die(void) { abort(); }\n")
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    with pytest.raises(HostError, match="SIGABRT"):
        Bench(library=str(library)).attempt(Work.VECTOR, ONE)


@pytest.mark.parametrize(
    ("work", "node", "call"), [(Work.GDRCOPY, "gdrdrv", "gdr_open"), (Work.GDS, "nvidia-fs0", "cuFileDriverOpen")]
)
def test_libraries_beside_the_driver(tmp_path: Path, work: Work, node: str, call: str) -> None:
    bench = Bench(environment={"NODEAGENT_CUDA_DEV": str(tmp_path)})
    with pytest.raises(HostError, match=call):
        bench.attempt(work)
    (tmp_path / node).touch()
    assert bench.attempt(work).simulated
    with pytest.raises(UnsupportedError, match="was not found"):
        Bench(library="libnot-there.so.7").attempt(work)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> CudaDriver:
    for name, value in Bench().launch().environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{ONE},{OTHER}")
    return CudaDriver(str(stub_path()))


def refused(driver: CudaDriver, call: str, *arguments: object) -> str:
    with pytest.raises(CudaCallError) as told:
        driver.call(call, *arguments)
    return told.value.name


def test_the_stub_checks_the_calls_made(driver: CudaDriver) -> None:
    """A stub that takes everything would prove nothing of the program above it."""
    cell = driver.ffi.new("CUdeviceptr *")
    assert refused(driver, "cuMemAlloc_v2", cell, 4096) == "CUDA_ERROR_INVALID_CONTEXT"
    assert refused(driver, "cuDeviceGet", driver.ffi.new("CUdevice *"), 2) == "CUDA_ERROR_INVALID_DEVICE"
    with driver.context(driver.device(0)), driver.memory(4096) as memory:
        assert refused(driver, "cuMemsetD8_v2", memory, 0, 4097) == "CUDA_ERROR_INVALID_VALUE"
        assert refused(driver, "cuMemsetD8_v2", memory + 1, 0, 4096) == "CUDA_ERROR_INVALID_VALUE"
        assert refused(driver, "cuMemFree_v2", memory + 8) == "CUDA_ERROR_INVALID_VALUE"
        with driver.context(driver.device(1)):
            assert refused(driver, "cuMemsetD8_v2", memory, 0, 16) == "CUDA_ERROR_INVALID_VALUE"
        driver.call("cuCtxSetCurrent", driver.ffi.NULL)
        assert refused(driver, "cuCtxSynchronize") == "CUDA_ERROR_INVALID_CONTEXT"
        driver.call("cuCtxSetCurrent", driver.out("CUcontext", "cuDevicePrimaryCtxRetain", 0))


@pytest.mark.parametrize("text", ["", "hello", ".version 6.0\n.target sm_50\n", ".version 6.0 .entry x() {}"])
def test_the_stub_refuses_what_is_no_kernel(driver: CudaDriver, text: str) -> None:
    with driver.context(driver.device(0)):
        image = driver.ffi.new("char[]", text.encode())
        assert refused(driver, "cuModuleLoadData", driver.ffi.new("CUmodule *"), image) == "CUDA_ERROR_INVALID_PTX"


def test_a_device_under_another_uuid_is_not_taken_for_the_one_asked_for(driver: CudaDriver) -> None:
    assert driver.uuid(driver.device(0)) == ONE.removeprefix("GPU-").replace("-", "")
    assert driver.uuid(driver.device(1)) == OTHER.removeprefix("GPU-").replace("-", "")
    assert only(driver, OTHER, 1) == driver.device(1)
    with pytest.raises(WrongDataError, match="another device"):
        only(driver, OTHER)


def test_after_a_hang_the_next_trial_is_answered() -> None:
    hanging = Bench(f"cuInit=hang@{ONE}")
    with pytest.raises(DeadlineError):
        hanging.attempt(Work.VECTOR, ONE, seconds=1.0)
    assert hanging.attempt(Work.VECTOR, OTHER).simulated
