"""The reset that a change of MIG mode may need: when it is tried, what its refusals mean, and what is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mig_world import board
from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.files import LocalFiles
from nodeagent.host.nvml_resets import ModeChanges, NvidiaSmi
from nodeagent.state.gpu import Gpu, MigMode

ADDRESS = "0000:07:00.0"
OFF, ON = MigMode.DISABLED, MigMode.ENABLED


@dataclass
class Driver:
    """A GPU whose driver leaves the mode pending, and a platform that resets it unless it has an error for that."""

    refusal: HostError | None = None
    works: bool = True
    gpu: Gpu = field(default_factory=lambda: board(0, mig_mode=OFF, pending_mig_mode=OFF))
    resets: list[str] = field(default_factory=list)
    in_session: bool = True

    def gpus(self) -> tuple[tuple[Gpu, ...], tuple[()]]:
        self.in_session = True
        return (self.gpu,), ()

    def release(self) -> None:
        self.in_session = False

    def ask(self) -> None:
        self.gpu = replace(self.gpu, pending_mig_mode=ON)
        raise UnsupportedError("enable MIG on", f"gpu {self.gpu.uuid}", "pending")

    def reset(self, pci_address: str) -> None:
        assert not self.in_session, "a session of ours is a client of the GPU"
        if self.refusal:
            raise self.refusal
        self.resets.append(pci_address)
        self.gpu = replace(self.gpu, mig_mode=self.gpu.pending_mig_mode if self.works else OFF)


def changed(driver: Driver) -> ModeChanges:
    changes = ModeChanges(driver)
    changes.change(driver, driver.gpu.uuid, True, driver.ask)
    return changes


def refused(driver: Driver, error: type[HostError], told: str) -> ModeChanges:
    changes = ModeChanges(driver)
    with pytest.raises(error, match=told):
        changes.change(driver, driver.gpu.uuid, True, driver.ask)
    return changes


def test_a_mode_left_pending_is_brought_into_force_by_one_reset_of_this_gpu() -> None:
    driver = Driver()
    assert not changed(driver).mark(driver.gpus()[0])[0].needs_reboot
    assert (driver.resets, driver.gpu.mig_mode) == ([driver.gpu.pci_address], ON)


def test_no_reset_where_the_driver_did_it_or_the_gpu_is_none_for_mig() -> None:
    driver = Driver(gpu=board(0, mig_mode=MigMode.UNSUPPORTED, pending_mig_mode=MigMode.UNSUPPORTED))
    changes = ModeChanges(driver)
    changes.change(driver, driver.gpu.uuid, True, lambda: None)
    driver.gpu = replace(driver.gpu, pending_mig_mode=MigMode.UNSUPPORTED)

    def ask() -> None:
        raise UnsupportedError("enable MIG on", "gpu", "not supported")

    with pytest.raises(UnsupportedError, match="not supported"):
        changes.change(driver, driver.gpu.uuid, True, ask)
    assert driver.resets == []


@pytest.mark.parametrize("error", [UnsupportedError, GoneError])
def test_where_there_is_no_reset_a_reboot_is_needed_until_the_mode_is_no_longer_pending(error: type[HostError]) -> None:
    driver = Driver(error("reset", "gpu", "there is none"))
    told = "enabled is pending: the driver did not reset the gpu, and there is none; reboot the node"
    changes = refused(driver, UnsupportedError, told)
    other = board(1, mig_mode=OFF, pending_mig_mode=ON)
    assert [one.needs_reboot for one in changes.mark([driver.gpu, other])] == [True, False]
    assert [one.needs_reboot for one in changes.mark([driver.gpu, other])] == [True, False]
    assert not changes.mark([replace(driver.gpu, mig_mode=ON)])[0].needs_reboot
    assert not changes.mark([driver.gpu])[0].needs_reboot, "forgotten"


def test_who_holds_the_gpu_is_no_reason_for_a_reboot() -> None:
    driver = Driver(BusyError("reset", "gpu", "in use", "wait"))
    changes = refused(driver, BusyError, "the driver did not reset the gpu, and in use; wait")
    assert not changes.mark([driver.gpu])[0].needs_reboot


def test_a_reset_that_changes_nothing_is_not_believed() -> None:
    driver = Driver(works=False)
    changes = refused(driver, UnsupportedError, "enabled is still pending after a reset; reboot the node")
    assert changes.mark([driver.gpu])[0].needs_reboot


# nvidia-smi itself: a program of the same name, a tree with the PCI function, real processes.


def nvidia_smi(tmp_path: Path, script: str, *, resettable: bool = True, seconds: float = 10.0) -> NvidiaSmi:
    function = tmp_path / "sys/bus/pci/devices" / ADDRESS
    function.mkdir(parents=True)
    if resettable:
        (function / "reset").touch()
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return NvidiaSmi(LocalFiles(str(tmp_path)), str(program), seconds)


def test_nvidia_smi_is_told_to_reset_exactly_this_gpu(tmp_path: Path) -> None:
    nvidia_smi(tmp_path, f'echo "$@" > {tmp_path}/told; echo "GPU was successfully reset."').reset(ADDRESS)
    assert (tmp_path / "told").read_text() == f"--gpu-reset -i {ADDRESS}\n"


# NVIDIA/mig-parted issue 181; NVIDIA/gpu-operator issues 118 and 1606
@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        (
            "The following GPUs could not be reset:\n  GPU 00000000:01:00.0: In use by another client",
            BusyError,
            "in use by another client",
        ),
        ("GPU 00000000:C1:00.0 is currently in use by another process.", BusyError, "in use by another client"),
        ("Resetting GPU 00000000:00:04.0 is not supported.", UnsupportedError, "a reset is not supported here; reboot"),
        ("Unable to reset: Insufficient Permissions", DeniedError, "not permitted"),
        ("\nSomething Else.", HostError, "nvidia-smi: something else"),
        ("", HostError, "no reason given"),
    ],
)
def test_the_words_of_nvidia_smi(tmp_path: Path, text: str, error: type[HostError], told: str) -> None:
    (tmp_path / "words").write_text(text)
    with pytest.raises(error, match=told) as caught:
        nvidia_smi(tmp_path, f"cat {tmp_path}/words; exit 255").reset(ADDRESS)
    assert type(caught.value) is error


def test_without_a_reset_of_the_pci_function_nvidia_smi_is_not_even_asked(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the platform offers no reset of its pci function; reboot"):
        nvidia_smi(tmp_path, f"touch {tmp_path}/asked", resettable=False).reset(ADDRESS)
    assert not (tmp_path / "asked").exists()


def test_nvidia_smi_that_is_missing_or_does_not_end(tmp_path: Path) -> None:
    slow = nvidia_smi(tmp_path, "exec sleep 60", seconds=0.2)
    with pytest.raises(DeadlineError, match=r"nvidia-smi did not end within 0.2 s"):
        slow.reset(ADDRESS)
    with pytest.raises(GoneError, match="nvidia-smi cannot be run; install it, or reboot"):
        NvidiaSmi(LocalFiles(str(tmp_path)), str(tmp_path / "nothing")).reset(ADDRESS)
