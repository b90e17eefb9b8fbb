"""The agent on a stock Linux kernel: each test below is one test that ran in the virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vm.rig import results
from vm.rig.machine import Boot, Outcome

GUEST = Path(__file__).resolve().parent / "guest"
# A PCI Express port with ACS, and below it a card that ignores what is written to its Device Control register.
PCIE_CARD = ("pcie-root-port,id=above,chassis=1,slot=1", "e1000e,bus=above,romfile=")
# QEMU 7.2 has no network card with SR-IOV; its NVMe controller has it, and stub_nic makes a network card of it.
SRIOV_CARD = (
    "intel-iommu",
    "pcie-root-port,id=rootport,chassis=1,slot=1",
    "nvme-subsys,id=subsystem",
    (
        "nvme,serial=1,bus=rootport,subsys=subsystem,max_ioqpairs=12,msix_qsize=8,sriov_max_vfs=4,sriov_vq_flexible=8,"
        "sriov_vi_flexible=4"
    ),
)
# Two cards on one wire: an igb with SR-IOV behind an IOMMU, and the one that answers it, in a network of its own.
IGB_CARD = (
    "intel-iommu,intremap=on,caching-mode=on",
    "pcie-root-port,id=rootport,chassis=1,slot=1",
    "igb,id=card,bus=rootport,netdev=near,mac=52:54:00:00:00:01,romfile=",
    "e1000e,id=peer,netdev=far,mac=52:54:00:00:00:02,romfile=,addr=1e.0",
    # Beside the port to the monitor in one slot, and neither of the two has ACS: one IOMMU group.
    "virtio-rng-pci,addr=1d.1",
)
WIRE = ("hubport,id=near,hubid=0", "hubport,id=far,hubid=0")
BOOTS = (
    # Two run at a time, so the longest come first.
    Boot("commands", tests=("test_commands.py",)),
    Boot("service", tests=("test_service.py", "test_services_contract.py"), manager="systemd"),
    Boot("mig-boot", tests=("test_mig_boot.py",), manager="systemd"),
    Boot("container", tests=("test_container.py",), manager="systemd", image="by the rig"),
    Boot(
        "igb",
        tests=("test_igb.py",),
        arguments="intel_iommu=on",
        devices=IGB_CARD,
        wires=WIRE,
        model="igb",
        monitor=True,
    ),
    Boot(
        "stock",
        tests=("test_modules.py", "test_facts.py", "test_contract.py", "test_processes_contract.py", "test_startup.py"),
    ),
    Boot(
        "network",
        tests=(
            "test_qos.py",
            "test_rdma.py",
            "test_restore.py",
            "test_pcie.py",
            "test_pcie_switch.py",
            "test_nic_driver.py",
            "test_rdma_peer.py",
            "test_health.py",
        ),
        devices=PCIE_CARD,
        arguments="numa=fake=2",
    ),
    Boot("sriov", tests=("test_sriov.py",), arguments="intel_iommu=on pci=realloc", devices=SRIOV_CARD),
    Boot("locked-down", tests=("test_signatures.py",), arguments="lockdown=integrity module_blacklist=psample"),
)
CASES = [
    (plan, Path(name).stem, test) for plan in BOOTS for name in plan.tests for test in results.declared(GUEST / name)
]


@pytest.mark.timeout(3000)  # the first test of a boot carries the download, the build and the whole run
@pytest.mark.parametrize(
    ("plan", "stem", "test"), CASES, ids=[f"{plan.name}-{stem}-{test}" for plan, stem, test in CASES]
)
def test_in_guest(booted: Callable[[Boot], Outcome], plan: Boot, stem: str, test: str) -> None:
    outcome = booted(plan)
    if outcome.problem:
        pytest.fail(f"{outcome.problem}\nend of the console:\n{outcome.console()}", pytrace=False)
    ran = results.read(outcome.results / "junit.xml").get((stem, test), [])
    if not ran:
        pytest.fail(f"{test} did not run in the guest\nend of the console:\n{outcome.console()}", pytrace=False)
    failures = [f"{case.name}:\n{case.failure}" for case in ran if case.failure]
    if failures:
        pytest.fail("\n".join([*failures, "end of the kernel log:", _kernel_log(outcome)]), pytrace=False)


@pytest.mark.timeout(3000)
def test_a_machine_that_does_not_come_up_is_a_failure_with_its_console(booted: Callable[[Boot], Outcome]) -> None:
    outcome = booted(Boot("broken", tests=(), arguments="rdinit=/nowhere", deadline_seconds=300))
    assert outcome.problem == "vm broken: ended without test results"
    assert "Kernel panic" in outcome.console()


def test_every_guest_test_file_belongs_to_a_boot() -> None:
    assert {path.name for path in GUEST.glob("test_*.py")} == {name for plan in BOOTS for name in plan.tests}


def _kernel_log(outcome: Outcome) -> str:
    log = outcome.results / "dmesg"
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else "(none)"
